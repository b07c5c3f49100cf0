//! The watch of one kind, for as long as the agent runs.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::StreamExt;
use kube::Api;
use kube::runtime::watcher::{self, watcher};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::access::Times;
use super::decode::Lenient;
use super::fault;
use super::guard::{Guard, Loss, Verdict};
use super::watched::Watched;
use crate::objects::event::{Change, Event};
use crate::source::progress::Progress;

/// The first pause after a failure. Each pause is twice the previous one, plus a random time of at most the same
/// length.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Objects in each part of a list, if the server cannot stream lists.
const PAGE: u32 = 500;

/// The receiver of the events was dropped.
struct Closed;

pub(super) struct Follower {
    client: kube::Client,
    events: mpsc::Sender<Event>,
    progress: Arc<Progress>,
    times: Times,
    guard: Guard,
    /// Whether a full list was delivered.
    told: bool,
}

/// Why a watch starts again with a list.
enum Anew {
    /// The version to watch from is too old.
    Listed,
    /// The list was rejected and must be confirmed.
    Doubted,
    /// The server does not stream lists.
    Paged,
    /// The server does not know the kind.
    Unknown,
}

impl Follower {
    pub(super) fn new(
        client: kube::Client,
        events: mpsc::Sender<Event>,
        progress: Arc<Progress>,
        times: Times,
        guard: Guard,
    ) -> Self {
        Self { client, events, progress, times, guard, told: false }
    }

    /// Runs until the receiver is dropped. `only`, if not empty, replaces the field selector of the kind.
    pub(super) async fn run<K: Watched>(mut self, only: String) {
        let fields = if only.is_empty() { K::FIELDS } else { &only };
        let paged = watcher::Config::default().labels(K::LABELS).fields(fields).page_size(PAGE);
        // A list as a stream of single objects is cheapest for both sides.
        let mut cheapest = paged.clone().streaming_lists();
        let mut config = cheapest.clone();
        loop {
            match self.follow::<K>(config).await {
                Ok(Anew::Listed) => config = cheapest.clone(),
                // A list in pages is read from etcd, not from a server's memory.
                Ok(Anew::Doubted) => config = paged.clone(),
                Ok(Anew::Paged) => {
                    cheapest = paged.clone();
                    config = paged.clone();
                }
                Ok(Anew::Unknown) => {
                    info!("this API server does not have the kind {}: it is not watched", K::KIND);
                    let _ = self.send_none::<K>().await;
                    return;
                }
                Err(Closed) => return,
            }
        }
    }

    async fn follow<K: Watched>(&mut self, config: watcher::Config) -> Result<Anew, Closed> {
        let is_streaming = config.initial_list_strategy == watcher::InitialListStrategy::StreamingList;
        let api = Api::<Lenient<K>>::all(self.client.clone());
        let mut stream = pin!(watcher(api, config));
        let pauses = ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(self.times.retry / 2)
            .without_max_times()
            .with_jitter();
        let mut pause = pauses.build();
        // A watcher never ends by itself.
        while let Some(outcome) = stream.next().await {
            let event = match outcome {
                Ok(event) => event,
                Err(error) => {
                    let status = fault::status(&error).map(|status| status.code);
                    match status {
                        Some(404) if K::IS_OPTIONAL => return Ok(Anew::Unknown),
                        // The agent must not wait for a list that may never arrive.
                        Some(403) if K::IS_OPTIONAL && !self.told => self.send_none::<K>().await?,
                        Some(400 | 422) if is_streaming => return Ok(Anew::Paged),
                        // This is not a fault: a list shows what changed meanwhile. kube's watcher would request the
                        // same version for ever if 410 is the answer to the request, and not an event.
                        Some(410) => {
                            debug!("{}: the watch is too old, listing again", K::KIND);
                            sleep(FIRST_PAUSE).await;
                            return Ok(Anew::Listed);
                        }
                        _ => {}
                    }
                    let text = fault::text::<K>(&error);
                    if self.progress.fail(K::KIND, text.clone()) {
                        warn!("{}: {text}; the last known state stays in force, trying again", K::KIND);
                    }
                    self.progress.pause(pause.next().unwrap_or(self.times.retry)).await;
                    continue;
                }
            };
            // `Init` precedes the request, so it proves nothing.
            if !matches!(event, watcher::Event::Init) {
                pause = pauses.build();
            }
            if !self.pass(event).await? {
                sleep(self.times.confirm).await;
                return Ok(Anew::Doubted);
            }
        }
        Err(Closed)
    }

    /// Passes an event on. Returns `false` at the end of a list that is rejected.
    async fn pass<K: Watched>(&mut self, event: watcher::Event<Lenient<K>>) -> Result<bool, Closed> {
        let progress = Arc::clone(&self.progress);
        let counts = progress.kind(K::KIND);
        let change = match event {
            watcher::Event::Init => {
                self.guard.begin();
                Change::Init
            }
            watcher::Event::InitApply(object) => self.change(object),
            watcher::Event::InitDone => {
                counts.lists.fetch_add(1, Relaxed);
                if !self.believe::<K>() {
                    return Ok(false);
                }
                self.told = true;
                Change::InitDone
            }
            watcher::Event::Apply(object) => {
                counts.changes.fetch_add(1, Relaxed);
                self.change(object)
            }
            watcher::Event::Delete(object) => {
                counts.changes.fetch_add(1, Relaxed);
                self.guard.delete(&object.name());
                Change::Delete(object.name())
            }
        };
        self.send(change).await?;
        Ok(true)
    }

    fn believe<K: Watched>(&mut self) -> bool {
        let verdict = self.guard.end();
        match verdict {
            Verdict::Take => {}
            Verdict::TakeInstead => {
                warn!("{}: the second list is not short, so the first was wrong", K::KIND)
            }
            Verdict::TakeConfirmed(Loss { before, after }) => warn!(
                "{}: a second list confirms the loss and is accepted: {after} of {before} {} remain",
                K::KIND,
                K::WEIGHED
            ),
            Verdict::Doubt(Loss { before, after }) => {
                self.progress.kind(K::KIND).doubted.fetch_add(1, Relaxed);
                warn!(
                    "{}: a list has only {after} of {before} known {}: the previous state stays until a second list \
                     confirms the loss",
                    K::KIND,
                    K::WEIGHED
                );
            }
        }
        !matches!(verdict, Verdict::Doubt(_))
    }

    fn change<K: Watched>(&mut self, object: Lenient<K>) -> Change<K> {
        let name = object.name();
        match object.object {
            Ok(object) => {
                self.guard.apply(&name, object.weight());
                Change::Apply(object)
            }
            Err(reason) => {
                self.guard.keep(&name);
                self.progress.kind(K::KIND).undecoded.fetch_add(1, Relaxed);
                Change::Broken(name, reason)
            }
        }
    }

    /// Sends an empty list.
    async fn send_none<K: Watched>(&mut self) -> Result<(), Closed> {
        self.told = true;
        self.send::<K>(Change::Init).await?;
        self.send::<K>(Change::InitDone).await
    }

    async fn send<K: Watched>(&self, change: Change<K>) -> Result<(), Closed> {
        self.events.send(K::event(change)).await.map_err(|_| Closed)
    }
}
