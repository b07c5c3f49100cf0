//! The agent's loop, the only place where sources, model, planner and kernel meet.

mod config;
pub mod heap;
mod pace;
mod signals;
mod source;
mod start;
mod tables;

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use lb_common::{Addr, names};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, error, info, warn};

pub use config::Config;
pub use source::Source;

use crate::dataplane::load;
use crate::dataplane::lock;
use crate::dataplane::pins::Pins;
use crate::dataplane::shape::Sizes;
use crate::dataplane::sweep::Sweep;
use crate::desired::Desired;
use crate::hooks::links::Links;
use crate::hooks::sockets::HostSockets;
use crate::model::Model;
use crate::node::netdev::{Changed, Netdev};
use crate::objects::event::Event;
use crate::objects::name::{Family, Kind};
use crate::objects::notice::{Notice, Severity};
use crate::observe::events::Recorder;
use crate::observe::http::Surfaces;
use crate::observe::moment::Moment;
use crate::observe::telemetry::{Sync, Telemetry};
use crate::plan::Batch;
use pace::Pace;
use signals::Signals;
use source::Watch;
use tables::{RETRY_AFTER, Writer};

/// Time between two passes over the flow table.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// How long to wait after a change of a link: a new link comes with a burst of messages.
const LINKS_SETTLE: Duration = Duration::from_millis(20);
/// The number of events that are taken in before the tables are written.
const EVENTS_AT_ONCE: usize = 4096;

/// Runs until SIGTERM or SIGINT. The data path keeps working afterwards.
///
/// # Errors
/// If the agent cannot start: no privilege, tables of another version, a kernel that refuses a program. Later faults
/// are logged, and the last good state stays in force.
pub async fn run(config: Config) -> anyhow::Result<()> {
    // Before anything is created.
    config.source.check()?;
    let mut signals = Signals::new()?;
    let pins = Pins::new(&config.pin_dir);
    let constants = config.host_sockets.constants(config.constants)?;
    // Until we hold the lock, we touch nothing that another agent uses.
    let _lock = tokio::select! {
        lock = lock::take(&pins, || load::try_out(&pins, constants, config.sizes).map(drop)) => lock?,
        () = signals.stop() => return Ok(()),
    };
    let (mut agent, inputs) = Agent::start(config, pins, constants).await?;
    agent.follow(inputs, signals).await?;
    info!("stopped; the data path keeps working (`lb cleanup` removes it)");
    Ok(())
}

impl Agent {
    /// The loop. Returns on a signal.
    async fn follow(&mut self, mut inputs: Inputs, mut signals: Signals) -> anyhow::Result<()> {
        let mut links_due = self.look_at_links().await;
        self.look_at_sockets();
        self.writer.start_grace();
        let mut sweeps = interval(SWEEP_EVERY);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = signals.stop() => return Ok(()),
                count = inputs.events.recv_many(&mut batch, EVENTS_AT_ONCE) => {
                    anyhow::ensure!(count > 0, "the source of objects ended");
                    self.take(&mut batch);
                    self.ask();
                }
                () = at(self.pace.due()) => self.settle(),
                Some(closed) = inputs.reclaimed.recv() => self.reclaim(closed),
                () = at(self.writer.retry_at()) => self.recover(),
                Some(_) = inputs.link_changes.next() => {
                    links_due.get_or_insert_with(|| Instant::now() + LINKS_SETTLE);
                }
                () = at(links_due) => {
                    links_due = self.look_at_links().await;
                    self.ask();
                }
                () = self.telemetry.repair() => links_due = Some(Instant::now()),
                Some(error) = inputs.ports_failed.recv() => return Err(error),
                _ = sweeps.tick() => {
                    self.sweep();
                    self.links.correct_hosts().await;
                }
            }
        }
    }
}

/// What the loop waits for, in addition to times.
struct Inputs {
    events: mpsc::Receiver<Event>,
    /// Batches whose grace period has passed; `None` if this could not be proven.
    reclaimed: mpsc::Receiver<Option<Batch>>,
    link_changes: Box<dyn Stream<Item = Changed> + Unpin>,
    /// The error that ends the agent.
    ports_failed: mpsc::Receiver<anyhow::Error>,
}

/// Returns at `time`; never returns if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Everything that the loop works on.
struct Agent {
    watch: Watch,
    telemetry: Arc<Telemetry>,
    surfaces: Surfaces,
    /// Present if objects come from an API server.
    recorder: Option<Recorder>,
    model: Model,
    netdev: Netdev,
    writer: Writer,
    host_sockets: HostSockets,
    links: Links,
    pins: Pins,
    sweep: Sweep,
    sizes: Sizes,
    /// Whether the last sweep found the flow table nearly full.
    is_crowded: bool,
    pace: Pace,
}

impl Agent {
    fn take(&mut self, events: &mut Vec<Event>) {
        for event in events.drain(..) {
            self.telemetry.event(&event);
            self.model.apply(event);
        }
        let triggers = self.model.take_triggers();
        if self.model.ready() {
            self.telemetry.queued(triggers, Moment::now());
        }
        self.telemetry.health(|health| health.set_node(self.model.node()));
        self.say_news();
    }

    fn say_news(&mut self) {
        let news = self.model.take_notices();
        news.iter().for_each(|notice| self.say(notice));
    }

    fn say(&self, notice: &Notice) {
        say(notice);
        let subject = notice.subject.as_ref().filter(|subject| subject.kind == Kind::Service);
        if let (Some(recorder), Some(reason), Some(subject)) = (&self.recorder, notice.reason, subject) {
            recorder.report(&subject.name, reason, &notice.text);
        }
    }

    fn primary_ips(&self) -> Vec<Addr> {
        let node = self.model.node();
        Family::BOTH.into_iter().filter_map(|family| node?.primary_ip(family)).collect()
    }

    /// Handles a change: the tables follow at once, or a little later if many changes arrive.
    fn ask(&mut self) {
        if self.pace.ask(Instant::now()) {
            self.settle();
        }
    }

    /// Brings the tables to the state that the model asks for.
    fn settle(&mut self) {
        if !self.model.ready() || !self.writer.is_known() {
            // The next event, or the retry when it is due, asks again.
            self.pace.skip();
            return;
        }
        let began = Instant::now();
        let desired = self.model.desired();
        self.say_news();
        self.telemetry.desired(&desired);
        self.carry_out(desired);
        self.surfaces.set_health_checks(self.model.health_checks(), self.primary_ips());
        self.pace.wrote(began, Instant::now());
    }

    fn carry_out(&mut self, desired: Desired) {
        let began = std::time::Instant::now();
        let (is_complete, is_idle) = (desired.complete, desired.is_empty());
        let plan = self.writer.plan(desired);
        plan.notices.iter().for_each(|notice| self.say(notice));
        let written = self.writer.write(&plan);
        // Also if the plan failed half-way.
        self.host_sockets.applied(&plan.ops);
        if let Err(text) = written {
            error!("{text}");
            self.telemetry.failed(text, Moment::now());
            return;
        }
        let tables = self.writer.tables();
        self.watch.learn(tables);
        let (operations, is_whole) = (plan.ops.len(), self.writer.is_whole());
        self.telemetry.synced(Sync { began, is_complete, is_idle, operations, is_whole }, Moment::now());
        self.telemetry.tables(tables.frontends.len(), tables.names.len(), tables.slots.len());
        if let Some(operations) = self.writer.note_first(operations) {
            self.begin(operations);
        }
        self.writer.start_grace();
    }

    /// The first state is in the tables, which took this number of operations.
    fn begin(&self, operations: usize) {
        // Sockets that an earlier agent left when it was killed.
        self.host_sockets.end_orphans();
        heap::give_back();
        let (services, links) = (self.writer.tables().names.len(), self.links.attached());
        info!(operations, services, links, "ready");
        if links == 0 {
            info!("no pod link found yet; `lb status` lists every link and why it is not treated as one");
        }
    }

    /// Reads the tables back after a failed write, and brings them to the model's state again.
    fn recover(&mut self) {
        if self.writer.read_back() {
            self.model.resync();
            self.settle();
        }
    }

    /// Frees what a grace period has made safe to reuse, and plans the changes that waited for it.
    fn reclaim(&mut self, batch: Option<Batch>) {
        self.writer.reclaim(batch);
        if self.model.ready() && self.writer.is_known() {
            self.carry_out(Desired::default());
        }
    }

    /// Updates the programs on links and the node's addresses. Returns when to try again if anything failed.
    async fn look_at_links(&mut self) -> Option<Instant> {
        let mut is_done = self.links.reconcile().await;
        match self.netdev.addresses(None).await {
            Ok(addresses) => {
                self.model.apply(Event::Addresses(addresses.into_iter().map(Addr::from).collect()));
            }
            Err(failed) => {
                error!("cannot read the addresses of the node: {failed:#}");
                is_done = false;
            }
        }
        self.telemetry.links(self.links.attached(), self.links.health(), self.links.probe());
        (!is_done).then(|| Instant::now() + RETRY_AFTER)
    }

    /// Updates the programs at the host's sockets.
    fn look_at_sockets(&mut self) {
        let complaint = self.host_sockets.reconcile(&mut self.links.object, &self.pins);
        self.telemetry.health(|health| health.set_host_sockets(complaint));
    }

    /// One pass over the flow table.
    fn sweep(&mut self) {
        self.look_at_sockets();
        let program = match load::program(&mut self.links.object, names::SWEEP) {
            Ok(program) => program,
            Err(failed) => return error!("the sweep failed: {failed:#}"),
        };
        let began = std::time::Instant::now();
        let (report, clear) = match self.sweep.pass(self.writer.maps(), program, self.writer.tables()) {
            Ok(outcome) => outcome,
            Err(failed) => return error!("the sweep failed: {failed:#}"),
        };
        let removed: u32 = report.removed.iter().sum();
        debug!(entries = report.entries, removed, bits = clear.len(), "swept");
        self.telemetry.swept(began, report.removed, Moment::now());
        let kinds = report.flows.fills(self.sizes).map(|(kind, used, _)| (kind, used));
        self.telemetry.flows(report.entries, kinds);
        let complaint = report.flows.complaint(self.sizes);
        if let (Some(complaint), false) = (&complaint, self.is_crowded) {
            warn!("{complaint}");
            if let Some(recorder) = &self.recorder {
                recorder.report_node("FlowTableNearlyFull", complaint);
            }
        }
        self.is_crowded = complaint.is_some();
        self.telemetry.health(|health| health.set_flows(complaint));
        self.telemetry.backends(report.backends);
        self.telemetry.look_at_links(Moment::now());
        self.writer.clear_bits(clear);
    }
}

fn say(notice: &Notice) {
    match notice.severity {
        Severity::Info => info!("{notice}"),
        Severity::Warning => warn!("{notice}"),
        Severity::Error => error!("{notice}"),
    }
}
