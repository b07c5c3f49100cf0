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

/// The first pause after a failure; each is twice the one before, with as much again at random.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Objects in a part of a list, where the server cannot stream it.
const PAGE: u32 = 500;

/// Nobody receives any more.
struct Closed;

pub(super) struct Follower {
    client: kube::Client,
    events: mpsc::Sender<Event>,
    progress: Arc<Progress>,
    times: Times,
    guard: Guard,
    /// Was a list delivered?
    told: bool,
}

/// Why a watch begins anew.
enum Anew {
    /// The version to watch from is of no use.
    Listed,
    /// The list is not believed.
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

    /// Until nobody receives. `only` is one more field selector.
    pub(super) async fn run<K: Watched>(mut self, only: String) {
        let fields = if only.is_empty() { K::FIELDS } else { &only };
        let paged = watcher::Config::default().labels(K::LABELS).fields(fields).page_size(PAGE);
        // A list as a stream of single objects is the cheapest for both ends.
        let mut cheapest = paged.clone().streaming_lists();
        let mut config = cheapest.clone();
        loop {
            match self.follow::<K>(config).await {
                Ok(Anew::Listed) => config = cheapest.clone(),
                // In pages it is read from etcd, and not from a server's memory.
                Ok(Anew::Doubted) => config = paged.clone(),
                Ok(Anew::Paged) => {
                    cheapest = paged.clone();
                    config = paged.clone();
                }
                Ok(Anew::Unknown) => {
                    info!("this API server has no {}: not watched", K::KIND);
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
                        // Nobody waits for what may never be told.
                        Some(403) if K::IS_OPTIONAL && !self.told => self.send_none::<K>().await?,
                        Some(400 | 422) if is_streaming => return Ok(Anew::Paged),
                        // Not a fault: a list tells what changed meanwhile. kube's watcher would ask for the same
                        // version for ever where this is the answer to the request, and not an event.
                        Some(410) => {
                            debug!("{}: the watch is too old, listing anew", K::KIND);
                            sleep(FIRST_PAUSE).await;
                            return Ok(Anew::Listed);
                        }
                        _ => {}
                    }
                    let text = fault::text::<K>(&error);
                    if self.progress.fail(K::KIND, text.clone()) {
                        warn!("{}: {text}; what is known stays in force, trying again", K::KIND);
                    }
                    self.progress.pause(pause.next().unwrap_or(self.times.retry)).await;
                    continue;
                }
            };
            // A list that is only about to be asked for proves nothing.
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

    /// `false` for the end of a list that is not believed.
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
            Verdict::TakeInstead => warn!("{}: the second list has them: the first was wrong", K::KIND),
            Verdict::TakeConfirmed(Loss { before, after }) => warn!(
                "{}: a second list says the same, {after} {} of {before}: it is taken",
                K::KIND,
                K::WEIGHED
            ),
            Verdict::Doubt(Loss { before, after }) => {
                self.progress.kind(K::KIND).doubted.fetch_add(1, Relaxed);
                warn!(
                    "{}: a list has {after} {} where {before} were known: kept until a second list confirms it",
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

    /// An empty list.
    async fn send_none<K: Watched>(&mut self) -> Result<(), Closed> {
        self.told = true;
        self.send::<K>(Change::Init).await?;
        self.send::<K>(Change::InitDone).await
    }

    async fn send<K: Watched>(&self, change: Change<K>) -> Result<(), Closed> {
        self.events.send(K::event(change)).await.map_err(|_| Closed)
    }
}
