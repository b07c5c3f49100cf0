//! The agent's own Node, which may not exist yet.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::objects::event::{Change, Event};

/// Passes on the events of the Node. The end of a first list without the Node is held back, and with it everything that
/// waits for a full list of each kind, but only for `patience` (kube-proxy waits 30 s for the Node's addresses and then
/// continues without them, pkg/proxy/node.go). A Node that appears later is a change like any other.
pub(super) async fn wait(
    name: String,
    patience: Duration,
    mut said: mpsc::Receiver<Event>,
    events: mpsc::Sender<Event>,
) {
    let end = Instant::now() + patience;
    let mut first = First::Awaited;
    let mut is_missed = false;
    loop {
        let event = tokio::select! {
            event = said.recv() => event,
            () = sleep_until(end), if first != First::Passed => {
                warn!(
                    "no Node {name} after {} s: continuing without it, and therefore without the zone of this node; \
                     check that --node-name (or NODE_NAME, or the host name) is the name of a Node",
                    patience.as_secs_f32()
                );
                is_missed = true;
                first = First::Passed;
                Some(Event::Node(Change::InitDone))
            }
        };
        let Some(Event::Node(change)) = event else { return };
        let is_there = matches!(change, Change::Apply(_));
        let is_end = matches!(change, Change::InitDone);
        if first == First::Awaited && is_end {
            first = First::Empty;
            continue;
        }
        if is_missed && is_there {
            info!("Node {name} exists now");
            is_missed = false;
        }
        if events.send(Event::Node(change)).await.is_err() {
            return;
        }
        first = match first {
            First::Awaited if is_there => First::Filled,
            First::Filled if is_end => First::Passed,
            // The Node appeared after the list.
            First::Empty if is_there => {
                if events.send(Event::Node(Change::InitDone)).await.is_err() {
                    return;
                }
                First::Passed
            }
            other => other,
        };
    }
}

/// The first full list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    /// The list has not ended, and the Node was not in it so far.
    Awaited,
    /// The Node is in the list.
    Filled,
    /// The list ended without the Node. Its end was not passed on.
    Empty,
    /// The end of the list was passed on.
    Passed,
}
