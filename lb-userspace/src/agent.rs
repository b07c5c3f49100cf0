//! The loop: the only place where sources, model, planner and kernel meet.

pub mod heap;
mod pace;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use lb_common::{Addr, names};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, error, info, trace, warn};

use crate::dataplane::Kernel;
use crate::dataplane::hook::Mode;
use crate::dataplane::load::{self, Constants, Opened};
use crate::dataplane::lock;
use crate::dataplane::maps::Maps;
use crate::dataplane::migrate;
use crate::dataplane::pins::Pins;
use crate::dataplane::shape::Sizes;
use crate::dataplane::sweep::Sweep;
use crate::desired::Desired;
use crate::hooks::links::Links;
use crate::hooks::sockets::{HostSockets, SocketOptions};
use crate::model::{Model, Rules};
use crate::node::netdev::Netdev;
use crate::node::role::Overrides;
use crate::objects::event::Event;
use crate::objects::name::{Family, Kind};
use crate::objects::notice::{Notice, Severity};
use crate::observe::events::Recorder;
use crate::observe::http::{ServerOptions, Surfaces};
use crate::observe::metrics;
use crate::observe::metrics::traffic::Traffic;
use crate::observe::moment::Moment;
use crate::observe::status_socket;
use crate::observe::telemetry::{Sync, Telemetry};
use crate::plan::{Batch, Limits, Plan, Planner};
use crate::source::api;
use crate::source::manifests;
use crate::tables::op::Op;
use crate::tables::plane::Plane;
use pace::Pace;

/// Between two passes over the flow table.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Links come with a burst of messages.
const LINKS_SETTLE: Duration = Duration::from_millis(20);
/// After the kernel refused a write.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Events that are taken in before the tables are written.
const EVENTS_AT_ONCE: usize = 4096;

/// What the command line means.
#[derive(Clone, Debug)]
pub struct Config {
    pub source: Source,
    pub node_name: String,
    pub rules: Rules,
    pub pin_dir: PathBuf,
    pub attach: Mode,
    pub roles: Overrides,
    pub constants: Constants,
    pub surfaces: ServerOptions,
    /// How long a change may wait for the tables before health says so.
    pub health_timeout: Duration,
    /// Service ports, and backends, that metrics show the traffic of.
    pub metrics_limit: usize,
    pub sizes: Sizes,
    pub host_sockets: SocketOptions,
}

/// Where the objects come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// A Kubernetes API server.
    Api(api::Access),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Manifests(dir) => write!(f, "folder {}", dir.display()),
            Self::Api(api::Access { server: Some(server), .. }) => write!(f, "API server {server}"),
            Self::Api(api::Access { kubeconfig: Some(file), .. }) => {
                write!(f, "API server of {}", file.display())
            }
            Self::Api(_) => f.write_str("API server of the pod's cluster"),
        }
    }
}

/// Follows a source until it is dropped.
enum Watch {
    Manifests(manifests::Watch),
    Api(api::Watch),
}

/// Runs until SIGTERM or SIGINT. The data path stays as it is then.
///
/// # Errors
/// Where the agent cannot begin: no privilege, tables of another version, a kernel that refuses a program.
/// Later faults are logged, and the last good state stays.
pub async fn run(config: Config) -> anyhow::Result<()> {
    // Before anything is made.
    if let Source::Manifests(dir) = &config.source {
        std::fs::read_dir(dir).with_context(|| format!("cannot read the folder {}", dir.display()))?;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let pins = Pins::new(&config.pin_dir);
    let constants = config.host_sockets.constants(config.constants)?;
    // Before it is had, nothing that another agent uses is touched.
    let _lock = tokio::select! {
        lock = lock::take(&pins, || load::try_out(&pins, constants, config.sizes).map(drop)) => lock?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let Opened { object, migration } = load::open(&pins, constants, config.sizes, migrate::CONVERTERS)?;
    let mut kernel = Kernel::new(Maps::open(&pins, true)?)?;
    let tables = kernel.read().context("read the tables back")?;
    let mut planner = Planner::restore(tables, Limits::default());
    // Before programs of this version run on the links.
    kernel.apply(&planner.missing_bits()).context("set the bits that the tables need")?;

    let (events_in, mut events) = mpsc::channel(1024);
    let telemetry = Arc::new(Telemetry::new(Moment::now()));
    let source = config.source.to_string();
    let watch = match config.source {
        Source::Manifests(dir) => Watch::Manifests(manifests::watch(dir, events_in)?),
        Source::Api(api) => {
            let api = api::Access { requests: Some(Arc::new(telemetry.rest_client())), ..api };
            Watch::Api(api::watch(api, &config.node_name, planner.tables(), events_in).await?)
        }
    };
    telemetry.health(|health| {
        health.set_timeout(config.health_timeout);
        if !planner.tables().names.is_empty() {
            health.inherit();
        }
    });
    let recorder = match &watch {
        Watch::Manifests(_) => None,
        Watch::Api(watch) => {
            Some(Recorder::start(watch.client.clone(), &config.node_name, Arc::clone(&telemetry)))
        }
    };
    let identity = status_socket::Identity {
        node_name: config.node_name.clone(),
        source,
        link_roles: config.roles.clone(),
        sources: match &watch {
            Watch::Manifests(watch) => Arc::clone(&watch.progress),
            Watch::Api(watch) => Arc::clone(&watch.progress),
        },
    };
    let traffic = Traffic::new(kernel.maps.again(&pins)?, config.metrics_limit)?;
    metrics::register_scraped(telemetry.registry(), traffic, &identity.sources)?;
    // The data path does not wait for it.
    let status = match status_socket::listen(&config.pin_dir).await {
        Ok(listener) => Some((listener, identity)),
        Err(failed) => {
            error!("`lb status` is not answered: {failed:#}");
            None
        }
    };
    let (surfaces, mut ports_failed) =
        Surfaces::start(config.surfaces, Arc::clone(&telemetry), recorder.clone(), status)?;
    let (netdev, mut link_changes) = Netdev::connect()?;
    let (reclaim_in, mut reclaimed) = mpsc::channel(4);

    let mut agent = Agent {
        watch,
        telemetry: Arc::clone(&telemetry),
        surfaces,
        recorder,
        model: Model::with_rules(&*config.node_name, config.rules),
        netdev: netdev.clone(),
        planner,
        host_sockets: HostSockets::new(config.host_sockets, &pins, &kernel.maps)?,
        kernel,
        links: Links::new(object, pins.clone(), netdev, config.attach, config.roles),
        pins,
        sweep: Sweep::default(),
        reclaim_in,
        waiting_for_grace: false,
        pace: Pace::default(),
        retry_at: None,
        unknown: false,
        began: false,
        first_operations: 0,
    };
    if let Some(migration) = migration {
        agent.links.migrate(migration).await.context("take over the flows of the tables before")?;
    }
    let mut links_due = agent.look_at_links().await;
    agent.look_at_sockets();
    agent.start_grace();

    let mut sweeps = interval(SWEEP_EVERY);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            count = events.recv_many(&mut batch, EVENTS_AT_ONCE) => {
                anyhow::ensure!(count > 0, "the source of objects ended");
                agent.take(&mut batch);
                if agent.pace.ask(Instant::now()) {
                    agent.settle();
                }
            }
            () = sleep_until(agent.pace.due().unwrap_or_else(Instant::now)), if agent.pace.due().is_some() => {
                agent.settle();
            }
            Some(closed) = reclaimed.recv() => agent.reclaim(closed),
            () = sleep_until(agent.retry_at.unwrap_or_else(Instant::now)), if agent.retry_at.is_some() => {
                agent.retry_at = None;
                if agent.unknown { agent.recover() } else { agent.settle() }
            }
            Some(_) = link_changes.next() => {
                links_due.get_or_insert_with(|| Instant::now() + LINKS_SETTLE);
            }
            () = sleep_until(links_due.unwrap_or_else(Instant::now)), if links_due.is_some() => {
                links_due = agent.look_at_links().await;
                if agent.pace.ask(Instant::now()) {
                    agent.settle();
                }
            }
            () = telemetry.repair() => links_due = Some(Instant::now()),
            Some(error) = ports_failed.recv() => return Err(error),
            _ = sweeps.tick() => agent.sweep(),
        }
    }
    info!("stopped; the data path goes on (`lb cleanup` removes it)");
    Ok(())
}

struct Agent {
    watch: Watch,
    telemetry: Arc<Telemetry>,
    surfaces: Surfaces,
    /// Where objects come from an API server.
    recorder: Option<Recorder>,
    model: Model,
    netdev: Netdev,
    planner: Planner,
    kernel: Kernel,
    host_sockets: HostSockets,
    links: Links,
    pins: Pins,
    sweep: Sweep,
    /// Batches whose grace period has passed; `None` where that could not be proven.
    reclaim_in: mpsc::Sender<Option<Batch>>,
    waiting_for_grace: bool,
    pace: Pace,
    retry_at: Option<Instant>,
    /// A write failed half-way: the planner's picture of the tables is not to be trusted.
    unknown: bool,
    /// The first state is in the tables.
    began: bool,
    /// What that took so far.
    first_operations: usize,
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

    /// Brings the tables to what the model asks for.
    fn settle(&mut self) {
        if !self.model.ready() || self.unknown || self.retry_at.is_some() {
            // Asked again with the next event, or when the retry is due.
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
        let began = Instant::now();
        let (is_complete, is_idle) = (desired.complete, desired.is_empty());
        let plan = self.planner.plan(desired);
        plan.notices.iter().for_each(|notice| self.say(notice));
        if self.apply(&plan) {
            let operations = plan.ops.len();
            let is_whole = !self.planner.deferred();
            let sync = Sync { began: began.into_std(), is_complete, is_idle, operations, is_whole };
            self.telemetry.synced(sync, Moment::now());
            let tables = self.planner.tables();
            self.telemetry.tables(tables.frontends.len(), tables.names.len(), tables.slots.len());
            self.note_beginning(operations);
            self.start_grace();
        }
    }

    /// The first state is in the tables when none of it waits for a grace period any more.
    fn note_beginning(&mut self, operations: usize) {
        if self.began {
            return;
        }
        self.first_operations += operations;
        if !self.planner.deferred() {
            self.began = true;
            // Those that an agent which was killed left.
            self.host_sockets.end_orphans();
            heap::give_back();
            info!(
                operations = self.first_operations,
                services = self.planner.tables().names.len(),
                links = self.links.attached(),
                "ready"
            );
            if self.links.attached() == 0 {
                info!("no link of a pod yet; `lb status` shows each link and why it is none");
            }
        }
    }

    /// `false` where the kernel refused: then everything is read back and planned anew, a little later.
    fn apply(&mut self, plan: &Plan) -> bool {
        if !plan.ops.is_empty() {
            debug!(operations = plan.ops.len(), "applying");
            plan.ops.iter().for_each(|op| trace!(?op));
        }
        let applied = self.kernel.apply(&plan.ops);
        // Also of a plan that failed half-way.
        self.host_sockets.applied(&plan.ops);
        let Err(failed) = applied else {
            if let Watch::Api(watch) = &self.watch {
                watch.route.learn(self.planner.tables());
            }
            return true;
        };
        let text = format!("writing the tables: {failed:#}; trying again in {} s", RETRY_AFTER.as_secs());
        error!("{text}");
        self.telemetry.failed(text, Moment::now());
        self.unknown = true;
        self.retry_at = Some(Instant::now() + RETRY_AFTER);
        false
    }

    /// After a write that failed: what is in the tables? Nothing is planned before that is known.
    fn recover(&mut self) {
        match self.kernel.read() {
            Ok(tables) => {
                self.planner.resume(tables);
                self.model.resync();
                self.unknown = false;
                self.settle();
            }
            Err(failed) => {
                error!("reading the tables back: {failed:#}; trying again in {} s", RETRY_AFTER.as_secs());
                self.retry_at = Some(Instant::now() + RETRY_AFTER);
            }
        }
    }

    /// Off the apply path: what was released is free again when no packet can still read it.
    fn start_grace(&mut self) {
        if self.waiting_for_grace {
            return;
        }
        let Some(batch) = self.planner.pending() else {
            if self.planner.deferred() {
                // Nothing to wait for: the next turn of the loop plans it.
                let _ = self.reclaim_in.try_send(None);
            }
            return;
        };
        self.waiting_for_grace = true;
        let grace = Arc::clone(&self.kernel.grace);
        let done = self.reclaim_in.clone();
        tokio::task::spawn_blocking(move || {
            let proven = match grace.wait() {
                Ok(()) => Some(batch),
                Err(failed) => {
                    warn!("no proof of a grace period, nothing is reused: {failed}");
                    std::thread::sleep(RETRY_AFTER);
                    None
                }
            };
            // The agent is ending where nobody listens.
            let _ = done.blocking_send(proven);
        });
    }

    fn reclaim(&mut self, batch: Option<Batch>) {
        self.waiting_for_grace = false;
        if let Some(batch) = batch {
            self.planner.reclaim(batch);
        }
        if self.model.ready() && !self.unknown && self.retry_at.is_none() {
            self.carry_out(Desired::default());
        }
    }

    /// Programs on links, and the node's addresses. When to look again, where not all could be done.
    async fn look_at_links(&mut self) -> Option<Instant> {
        let mut is_done = self.links.reconcile().await;
        match self.netdev.addresses(None).await {
            Ok(addresses) => {
                self.model.apply(Event::Addresses(addresses.into_iter().map(Addr::from).collect()));
            }
            Err(failed) => {
                error!("addresses of the node: {failed:#}");
                is_done = false;
            }
        }
        self.telemetry.links(self.links.attached(), self.links.health(), self.links.probe());
        (!is_done).then(|| Instant::now() + RETRY_AFTER)
    }

    /// Programs at the host's sockets.
    fn look_at_sockets(&mut self) {
        let complaint = self.host_sockets.reconcile(&mut self.links.object, &self.pins);
        self.telemetry.health(|health| health.set_host_sockets(complaint));
    }

    fn sweep(&mut self) {
        self.look_at_sockets();
        let program = match load::program(&mut self.links.object, names::SWEEP) {
            Ok(program) => program,
            Err(failed) => return error!("sweep: {failed:#}"),
        };
        let began = std::time::Instant::now();
        match self.sweep.pass(&self.kernel.maps, program, self.planner.tables()) {
            Ok((report, clear)) => {
                let removed: u32 = report.removed.iter().sum();
                debug!(entries = report.entries, removed, bits = clear.len(), "swept");
                self.telemetry.swept(began, report.removed, Moment::now());
                self.telemetry.flows(report.entries);
                self.telemetry.backends(report.backends);
                self.telemetry.look_at_links(Moment::now());
                // Before the first state is known, bits may be needed by what is yet to come.
                if self.began {
                    for bit in clear {
                        let op = Op::ClearInterest { bit };
                        match self.kernel.apply(std::slice::from_ref(&op)) {
                            Ok(()) => self.planner.observe(&op),
                            Err(failed) => error!("sweep: {failed:#}"),
                        }
                    }
                }
            }
            Err(failed) => error!("sweep: {failed:#}"),
        }
    }
}

fn say(notice: &Notice) {
    match notice.severity {
        Severity::Info => info!("{notice}"),
        Severity::Warning => warn!("{notice}"),
        Severity::Error => error!("{notice}"),
    }
}
