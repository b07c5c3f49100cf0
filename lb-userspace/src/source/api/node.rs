//! The agent's own Node, which may not be there yet.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::objects::event::{Change, Event};

/// Passes the events of the Node on. The end of a first list without the Node is held back, and with it all that waits
/// for a full list of each kind; but only for so long (kube-proxy waits 30 s for the Node's addresses and then goes on
/// without them, pkg/proxy/node.go). A Node that comes later is a change like any other.
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
                    "no Node {name} after {} s: going on without it, and so without the zone of this node; is \
                     --node-name (or NODE_NAME, or the host name) the name of a Node?",
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
            info!("Node {name} is there now");
            is_missed = false;
        }
        if events.send(Event::Node(change)).await.is_err() {
            return;
        }
        first = match first {
            First::Awaited if is_there => First::Filled,
            First::Filled if is_end => First::Passed,
            // It came after the list.
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
    /// It has not ended, and the Node was not in it so far.
    Awaited,
    /// The Node is in it.
    Filled,
    /// It ended without the Node. Its end was not passed on.
    Empty,
    Passed,
}
