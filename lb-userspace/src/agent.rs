//! The loop: the only place where sources, model, planner and kernel meet.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use aya::Ebpf;
use futures::StreamExt;
use lb_common::names;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, error, info, warn};

use crate::dataplane::Kernel;
use crate::dataplane::attach::{self, Hook, Mode};
use crate::dataplane::load::{self, Constants};
use crate::dataplane::maps::Maps;
use crate::dataplane::pins::Pins;
use crate::dataplane::sweep::Sweep;
use crate::desired::Desired;
use crate::event::Event;
use crate::manifests;
use crate::model::{Model, Notice, Severity};
use crate::netdev::{Direction, Facts, Netdev, Overrides, Role, role};
use crate::plan::{Batch, Limits, Op, Plan, Planner};
use crate::plane::Plane;

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
    pub manifests: PathBuf,
    pub node_name: String,
    pub pin_dir: PathBuf,
    pub attach: Mode,
    pub roles: Overrides,
    pub constants: Constants,
}

/// Runs until SIGTERM or SIGINT. The data path stays as it is then.
///
/// # Errors
/// Where the agent cannot begin: no privilege, another agent, tables of another version, a kernel that refuses
/// a program. Later faults are logged, and the last good state stays.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let pins = Pins::new(&config.pin_dir);
    pins.create()?;
    let _lock = pins.lock()?;
    let object = load::object(&pins, config.constants)?;
    let mut kernel = Kernel::new(Maps::open(&pins, true)?)?;
    let tables = kernel.read().context("read the tables back")?;
    let planner = Planner::restore(tables, Limits::default());

    let (events_in, mut events) = mpsc::channel(1024);
    let _watch = manifests::watch(config.manifests, events_in)?;
    let (netdev, mut link_changes) = Netdev::connect()?;
    let (reclaim_in, mut reclaimed) = mpsc::channel(4);

    let mut agent = Agent {
        model: Model::new(&config.node_name),
        planner,
        kernel,
        links: Links {
            pins,
            netdev,
            object,
            mode: config.attach,
            roles: config.roles,
            attached: BTreeMap::new(),
        },
        sweep: Sweep::default(),
        reclaim_in,
        waiting_for_grace: false,
        retry_at: None,
        unknown: false,
        began: false,
        first_operations: 0,
    };
    let mut links_due = agent.links.reconcile().await;
    agent.start_grace();

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut sweeps = interval(SWEEP_EVERY);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            count = events.recv_many(&mut batch, EVENTS_AT_ONCE) => {
                anyhow::ensure!(count > 0, "the source of manifests ended");
                agent.take(&mut batch);
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
                links_due = agent.links.reconcile().await;
            }
            _ = sweeps.tick() => agent.sweep(),
        }
    }
    info!("stopped; the data path goes on (`lb cleanup` removes it)");
    Ok(())
}

struct Agent {
    model: Model,
    planner: Planner,
    kernel: Kernel,
    links: Links,
    sweep: Sweep,
    /// Batches whose grace period has passed; `None` where that could not be proven.
    reclaim_in: mpsc::Sender<Option<Batch>>,
    waiting_for_grace: bool,
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
            self.model.apply(event);
        }
        self.model.take_notices().iter().for_each(say);
    }

    /// Brings the tables to what the model asks for.
    fn settle(&mut self) {
        if !self.model.ready() || self.unknown || self.retry_at.is_some() {
            return;
        }
        let desired = self.model.desired();
        self.model.take_notices().iter().for_each(say);
        let plan = self.planner.plan(desired);
        plan.notices.iter().for_each(say);
        if self.apply(&plan) {
            self.note_beginning(plan.ops.len());
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
            info!(
                operations = self.first_operations,
                services = self.planner.tables().names.len(),
                links = self.links.attached.len(),
                "ready"
            );
        }
    }

    /// `false` where the kernel refused: then everything is read back and planned anew, a little later.
    fn apply(&mut self, plan: &Plan) -> bool {
        if !plan.ops.is_empty() {
            debug!(operations = plan.ops.len(), "applying");
        }
        let Err(failed) = self.kernel.apply(&plan.ops) else { return true };
        error!("writing the tables: {failed:#}; trying again in {} s", RETRY_AFTER.as_secs());
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
            let plan = self.planner.plan(Desired::default());
            plan.notices.iter().for_each(say);
            if self.apply(&plan) {
                self.note_beginning(plan.ops.len());
                self.start_grace();
            }
        }
    }

    fn sweep(&mut self) {
        let program = match load::program(&mut self.links.object, names::SWEEP) {
            Ok(program) => program,
            Err(failed) => return error!("sweep: {failed:#}"),
        };
        match self.sweep.pass(&self.kernel.maps, program, self.planner.tables()) {
            Ok((report, clear)) => {
                debug!(entries = report.entries, removed = report.removed, bits = clear.len(), "swept");
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

/// The programs on the node's links.
struct Links {
    pins: Pins,
    netdev: Netdev,
    object: Ebpf,
    mode: Mode,
    roles: Overrides,
    /// By interface index: what hangs there, so that only changes are acted upon.
    attached: BTreeMap<u32, Attached>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Attached {
    facts: Facts,
    hook: Hook,
    /// Somebody else's clsact programs were there.
    foreign: usize,
}

impl Links {
    /// When to try again, where not all could be done.
    async fn reconcile(&mut self) -> Option<Instant> {
        match self.try_reconcile().await {
            Ok(true) => return None,
            Ok(false) => {}
            Err(failed) => error!("links: {failed:#}"),
        }
        Some(Instant::now() + RETRY_AFTER)
    }

    async fn try_reconcile(&mut self) -> anyhow::Result<bool> {
        let mut all = true;
        let links = self.netdev.links().await?;
        self.collect_stale(&links)?;
        for facts in &links {
            let (role, reason) = role(facts, &self.roles);
            if role == Role::Pod {
                all &= self.reconcile_pod(facts, reason).await;
            } else if self.attached.remove(&facts.index).is_some() {
                info!(link = facts.name, "no longer a pod's link ({reason}): detached");
                self.detach(facts).await;
            }
        }
        Ok(all)
    }

    async fn reconcile_pod(&mut self, facts: &Facts, reason: &str) -> bool {
        let filters = match self.filters(facts.index).await {
            Ok(filters) => filters,
            Err(failed) => {
                warn!("{}: {failed:#}", facts.name);
                return false;
            }
        };
        let foreign = filters.iter().flatten().filter(|filter| !attach::is_ours(filter)).count();
        let ours = filters.iter().all(|filters| filters.iter().any(attach::is_ours));
        if self.attached.get(&facts.index).is_some_and(|known| {
            known.facts == *facts && known.foreign == foreign && (known.hook == Hook::Tcx || ours)
        }) {
            return true;
        }
        match attach::attach(&mut self.object, &self.pins, self.mode, facts, &filters) {
            Ok(hook) => {
                info!(link = facts.name, ?hook, "attached: {reason}");
                self.attached.insert(facts.index, Attached { facts: facts.clone(), hook, foreign });
                true
            }
            // It may have gone again meanwhile.
            Err(failed) => {
                warn!("{failed:#}");
                false
            }
        }
    }

    async fn filters(&self, index: u32) -> anyhow::Result<[Vec<crate::netdev::Filter>; 2]> {
        Ok([
            self.netdev.filters(index, Direction::Ingress).await?,
            self.netdev.filters(index, Direction::Egress).await?,
        ])
    }

    async fn detach(&self, facts: &Facts) {
        if let Err(failed) = detach(&self.pins, &self.netdev, facts).await {
            warn!("{failed:#}");
        }
    }

    /// Pins of links whose interface is gone.
    fn collect_stale(&mut self, links: &[Facts]) -> anyhow::Result<()> {
        let there = |index: &u32| links.iter().any(|link| link.index == *index);
        self.attached.retain(|index, _| there(index));
        for (index, _) in self.pins.linked()?.iter().filter(|(index, _)| !there(index)) {
            for direction in Direction::BOTH {
                attach::unpin(&self.pins, *index, direction)?;
            }
        }
        Ok(())
    }
}

async fn detach(pins: &Pins, netdev: &Netdev, link: &Facts) -> anyhow::Result<()> {
    let mut ours = false;
    let mut others = false;
    for direction in Direction::BOTH {
        attach::unpin(pins, link.index, direction)?;
        let filters = netdev.filters(link.index, direction).await?;
        ours |= filters.iter().any(attach::is_ours);
        others |= filters.iter().any(|filter| !attach::is_ours(filter));
        attach::detach_clsact(&link.name, direction, &filters)?;
    }
    if ours && !others {
        netdev.remove_clsact(link.index).await;
    }
    Ok(())
}

/// `lb cleanup`: detaches from every link of this network namespace and removes the tables.
///
/// # Errors
/// While an agent runs, or where the kernel refuses.
pub async fn cleanup(pin_dir: PathBuf) -> anyhow::Result<()> {
    let pins = Pins::new(&pin_dir);
    let lock = if pins.require().is_ok() { Some(pins.lock()?) } else { None };
    let (netdev, _) = Netdev::connect()?;
    for link in netdev.links().await? {
        detach(&pins, &netdev, &link).await?;
    }
    pins.remove()?;
    drop(lock);
    Ok(())
}

fn say(notice: &Notice) {
    match notice.severity {
        Severity::Info => info!("{notice}"),
        Severity::Warning => warn!("{notice}"),
        Severity::Error => error!("{notice}"),
    }
}
