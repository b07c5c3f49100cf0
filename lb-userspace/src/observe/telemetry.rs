//! The knowledge of the agent's loop that others read: metrics, health, the last error.
//!
//! The loop writes, and never waits. The servers read, on a thread of their own, so that they answer even if the loop
//! hangs.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use lb_common::names;
use prometheus::Registry;
use tokio::sync::Notify;

use super::health::{Health, LinkHealth};
use super::metrics::rest::RestClient;
use super::moment::Moment;

use super::metrics::kube_proxy::KubeProxy;
use super::metrics::no_local::NoLocal;
use super::metrics::ours::Metrics;
use crate::desired::Desired;
use crate::objects::event::{Change, Event};
use crate::objects::name::Family;
use crate::observe::metrics::ours::EventOutcome;

/// Shared by the loop and all readers.
pub struct Telemetry {
    registry: Registry,
    kubeproxy: KubeProxy,
    metrics: Metrics,
    rest: RestClient,
    began: Moment,
    state: Mutex<State>,
    probe: Mutex<Option<Probe>>,
    repair: Notify,
}

/// Finds the links that lost their programs.
struct Probe {
    look: Box<dyn Fn() -> Vec<String> + Send>,
    looked: Moment,
}

/// The time between two checks of the links.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    health: Health,
    no_local: NoLocal,
    /// When a user or a controller made the changes that are not in the tables yet.
    triggers: Vec<(Family, Timestamp)>,
    last_error: Option<Failure>,
}

/// The last fault of the loop.
#[derive(Clone, Debug)]
pub struct Failure {
    pub at: Moment,
    pub text: String,
}

/// One pass from the model to the tables.
#[derive(Clone, Copy, Debug)]
pub struct Sync {
    /// When the pass began.
    pub began: Instant,
    /// Whether all tables were compared, not only what changed.
    pub is_complete: bool,
    /// Whether no object had changed, so that the pass was only about what waited for a grace period, if anything.
    pub is_idle: bool,
    pub operations: usize,
    /// Whether nothing of the pass waits for a grace period.
    pub is_whole: bool,
}

impl Telemetry {
    /// `now` is the time of the agent's start.
    pub fn new(now: Moment) -> Self {
        let registry = Registry::new();
        Self {
            kubeproxy: KubeProxy::new(&registry),
            metrics: Metrics::new(&registry),
            rest: RestClient::new(&registry),
            registry,
            began: now,
            state: Mutex::default(),
            probe: Mutex::default(),
            repair: Notify::new(),
        }
    }

    /// The registry, for further metrics.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// When the agent started.
    pub fn began(&self) -> Moment {
        self.began
    }

    /// Counts an event that the loop is about to process.
    pub fn event(&self, event: &Event) {
        match event {
            Event::Service(Change::Apply(_) | Change::Delete(_)) => self.kubeproxy.service_changes.count(),
            Event::Slice(Change::Apply(_) | Change::Delete(_)) => self.kubeproxy.endpoint_changes.count(),
            _ => {}
        }
    }

    /// Notes events that the tables must follow. `triggers` are the trigger times of those slices among them that the
    /// model found changed ([`crate::model::Model::take_triggers`]).
    pub fn queued(&self, triggers: Vec<(Family, Timestamp)>, now: Moment) {
        self.kubeproxy.queued(now.wall);
        let began = self.began.wall;
        let mut state = self.state();
        // Changes before the agent's start say nothing about the agent's speed.
        state.triggers.extend(triggers.into_iter().filter(|(_, time)| *time > began));
        state.health.queue(now);
    }

    /// Notes what is about to be programmed.
    pub fn desired(&self, desired: &Desired) {
        let mut state = self.state();
        state.no_local.follow(desired);
        self.kubeproxy.no_local(&state.no_local);
    }

    /// Notes a pass that has ended.
    pub fn synced(&self, sync: Sync, now: Moment) {
        if !sync.is_idle || sync.operations > 0 {
            let took = now.mono.saturating_duration_since(sync.began);
            self.metrics.operations.observe(sync.operations as f64);
            self.kubeproxy.synced(took, sync.is_complete, now.wall);
        }
        if !sync.is_whole {
            return;
        }
        self.kubeproxy.service_changes.settle();
        self.kubeproxy.endpoint_changes.settle();
        let mut state = self.state();
        state.health.update(now);
        for (family, time) in std::mem::take(&mut state.triggers) {
            self.kubeproxy.programmed(family, now.wall.duration_since(time).as_secs_f64());
        }
    }

    /// Notes a fault of the loop, which was already logged.
    pub fn failed(&self, text: String, now: Moment) {
        self.metrics.failures.inc();
        self.state().last_error = Some(Failure { at: now, text });
    }

    /// Notes a pass over the flow table. `removed` is indexed by [`Family`].
    pub fn swept(&self, began: Instant, removed: [u32; 2], now: Moment) {
        self.kubeproxy.swept(now.mono.saturating_duration_since(began), removed);
    }

    /// Sets the numbers of entries in use.
    pub fn tables(&self, frontends: usize, services: usize, slots: usize) {
        for (map, entries) in
            [(names::FRONTENDS, frontends), (names::SERVICES, services), (names::SLOTS, slots)]
        {
            self.metrics.set_entries(map, entries);
        }
    }

    /// Sets the number of entries of the flow table, and that of flows of each kind.
    pub fn flows(&self, entries: usize, kinds: impl IntoIterator<Item = (&'static str, usize)>) {
        for (kind, entries) in [(names::FLOWS, entries)].into_iter().chain(kinds) {
            self.metrics.set_entries(kind, entries);
        }
    }

    /// Sets the number of entries in use in the map of backends.
    pub fn backends(&self, entries: usize) {
        self.metrics.set_entries(names::BACKENDS, entries);
    }

    /// Sets the number of links that have programs, and the state of those that should have them. `look` finds links
    /// that have lost them since; it may be called on any thread.
    pub fn links(&self, attached: usize, links: LinkHealth, look: impl Fn() -> Vec<String> + Send + 'static) {
        self.metrics.set_links(attached, links.wanted);
        self.health(|health| health.set_links(links));
        *self.probe() = Some(Probe { look: Box::new(look), looked: Moment::now() });
    }

    /// Checks whether programs are where they should be, unless this was done within the last second. A missing program
    /// makes the agent unhealthy and wakes [`Telemetry::repair`].
    pub fn look_at_links(&self, now: Moment) {
        let mut probe = self.probe();
        let Some(probe) = probe.as_mut() else { return };
        if now.mono.saturating_duration_since(probe.looked.mono) < LOOK_EVERY {
            return;
        }
        probe.looked = now;
        let lost = (probe.look)();
        if !lost.is_empty() {
            self.health(|health| health.lose_links(lost));
            self.repair.notify_one();
        }
    }

    /// Returns when links need repair.
    pub async fn repair(&self) {
        self.repair.notified().await;
    }

    /// The metrics into which requests to the API server are counted.
    pub fn rest_client(&self) -> RestClient {
        self.rest.clone()
    }

    /// Counts a Kubernetes Event by its outcome.
    pub fn event_sent(&self, reason: &str, outcome: EventOutcome) {
        self.metrics.count_event(reason, outcome);
    }

    /// Reads or changes the health.
    pub fn health<T>(&self, visit: impl FnOnce(&mut Health) -> T) -> T {
        visit(&mut self.state().health)
    }

    pub fn last_error(&self) -> Option<Failure> {
        self.state().last_error.clone()
    }

    /// Counts an answer of `/healthz`.
    pub fn answered_healthz(&self, code: u16) {
        self.kubeproxy.healthz.with_label_values(&[&code.to_string()]).inc();
    }

    /// Counts an answer of `/livez`.
    pub fn answered_livez(&self, code: u16) {
        self.kubeproxy.livez.with_label_values(&[&code.to_string()]).inc();
    }

    fn probe(&self) -> MutexGuard<'_, Option<Probe>> {
        self.probe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A panic elsewhere must not end the servers. The state is consistent after each statement.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
