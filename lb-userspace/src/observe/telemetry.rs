//! What the agent's loop knows and others read: metrics, health, the last error.
//!
//! The loop tells; it never waits. The surfaces ask, from a thread of their own, so that they answer also when the
//! loop hangs.

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

/// Shared by the loop and everybody who reads.
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

/// Finds out which links lost their programs.
struct Probe {
    look: Box<dyn Fn() -> Vec<String> + Send>,
    looked: Moment,
}

/// Between two looks at the links.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    health: Health,
    no_local: NoLocal,
    /// When what is not in the tables yet was changed by a user or a controller.
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
    /// When it began.
    pub began: Instant,
    /// All of the tables was compared, not only what changed.
    pub is_complete: bool,
    /// No object had changed: this was about what waited for a grace period, if anything.
    pub is_idle: bool,
    pub operations: usize,
    /// Nothing of it waits for a grace period.
    pub is_whole: bool,
}

impl Telemetry {
    /// `now` is the agent's start.
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

    /// Where further metrics are registered.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// When the agent started.
    pub fn began(&self) -> Moment {
        self.began
    }

    /// The loop is about to take an event in.
    pub fn event(&self, event: &Event) {
        match event {
            Event::Service(Change::Apply(_) | Change::Delete(_)) => self.kubeproxy.service_changes.count(),
            Event::Slice(Change::Apply(_) | Change::Delete(_)) => self.kubeproxy.endpoint_changes.count(),
            _ => {}
        }
    }

    /// Events came that the tables are to follow. `triggers` are those of the slices among them, as the model found
    /// them changed ([`crate::model::Model::take_triggers`]).
    pub fn queued(&self, triggers: Vec<(Family, Timestamp)>, now: Moment) {
        self.kubeproxy.queued(now.wall);
        let began = self.began.wall;
        let mut state = self.state();
        // What happened before we were there says nothing of our speed.
        state.triggers.extend(triggers.into_iter().filter(|(_, time)| *time > began));
        state.health.queue(now);
    }

    /// What is about to be programmed.
    pub fn desired(&self, desired: &Desired) {
        let mut state = self.state();
        state.no_local.follow(desired);
        self.kubeproxy.no_local(&state.no_local);
    }

    /// The tables follow.
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

    /// Something went wrong in the loop; it was logged.
    pub fn failed(&self, text: String, now: Moment) {
        self.metrics.failures.inc();
        self.state().last_error = Some(Failure { at: now, text });
    }

    /// A pass over the flow table; `removed` is by [`Family`].
    pub fn swept(&self, began: Instant, removed: [u32; 2], now: Moment) {
        self.kubeproxy.swept(now.mono.saturating_duration_since(began), removed);
    }

    /// Entries in use.
    pub fn tables(&self, frontends: usize, services: usize, slots: usize) {
        for (map, entries) in
            [(names::FRONTENDS, frontends), (names::SERVICES, services), (names::SLOTS, slots)]
        {
            self.metrics.set_entries(map, entries);
        }
    }

    /// Entries of all parts of the flow table.
    pub fn flows(&self, entries: usize) {
        self.metrics.set_entries(names::FLOWS, entries);
    }

    /// Entries of the map of backends that are in use.
    pub fn backends(&self, entries: usize) {
        self.metrics.set_entries(names::BACKENDS, entries);
    }

    /// Links that have programs, and what is known of those that should. `look` finds those that lost them since, from
    /// any thread.
    pub fn links(&self, attached: usize, links: LinkHealth, look: impl Fn() -> Vec<String> + Send + 'static) {
        self.metrics.set_links(attached, links.wanted);
        self.health(|health| health.set_links(links));
        *self.probe() = Some(Probe { look: Box::new(look), looked: Moment::now() });
    }

    /// Looks whether programs are where they should be, unless that was done within the last second. What is missing
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

    /// Returns when links are to be looked after.
    pub async fn repair(&self) {
        self.repair.notified().await;
    }

    /// What requests to the API server are counted into.
    pub fn rest_client(&self) -> RestClient {
        self.rest.clone()
    }

    /// What became of a Kubernetes Event.
    pub fn event_sent(&self, reason: &str, outcome: EventOutcome) {
        self.metrics.count_event(reason, outcome);
    }

    /// Changes and reads health.
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

    /// A panic elsewhere must not end the surfaces: what is counted is whole after each statement.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
