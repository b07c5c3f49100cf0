//! The metrics of `lb` itself that the loop keeps.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::registry::{counter, counter_vec, int_gauge, int_gauge_vec, register, whole};

/// The outcome of a Kubernetes Event that was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    Sent,
    /// Not sent, because there were too many Events, or the same Event was sent recently.
    Limited,
    Failed,
}

pub(crate) struct Metrics {
    pub(crate) operations: Histogram,
    pub(crate) failures: IntCounter,
    links_attached: IntGauge,
    links_wanted: IntGauge,
    entries: IntGaugeVec,
    events: IntCounterVec,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        set_build_info(registry);
        Self {
            operations: register(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "lb_sync_operations",
                        "Map operations of each pass from objects to tables",
                    )
                    .buckets(vec![0.0, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0]),
                ),
            ),
            failures: counter(
                registry,
                "lb_sync_failures_total",
                "Passes that the kernel refused; the tables are read back, and the pass is tried again",
            ),
            links_attached: int_gauge(registry, "lb_links_attached", "Links that have the programs"),
            links_wanted: int_gauge(registry, "lb_links_wanted", "Links that should have the programs"),
            entries: int_gauge_vec(registry, "lb_map_entries", "Entries in use of each map", &["map"]),
            events: counter_vec(
                registry,
                "lb_kubernetes_events_total",
                "Kubernetes Events that were due, by outcome: sent, limited or failed",
                &["reason", "outcome"],
            ),
        }
    }

    pub(crate) fn count_event(&self, reason: &str, outcome: EventOutcome) {
        let outcome = match outcome {
            EventOutcome::Sent => "sent",
            EventOutcome::Limited => "limited",
            EventOutcome::Failed => "failed",
        };
        self.events.with_label_values(&[reason, outcome]).inc();
    }

    pub(crate) fn set_entries(&self, map: &str, entries: usize) {
        self.entries.with_label_values(&[map]).set(whole(entries));
    }

    pub(crate) fn set_links(&self, attached: usize, wanted: usize) {
        self.links_attached.set(whole(attached));
        self.links_wanted.set(whole(wanted));
    }
}

/// Names the build, as Kubernetes' components do. The version is that of `lb`.
fn set_build_info(registry: &Registry) {
    const LABELS: [&str; 9] = [
        "major",
        "minor",
        "git_version",
        "git_commit",
        "git_tree_state",
        "build_date",
        "go_version",
        "compiler",
        "platform",
    ];
    let platform = format!("linux/{}", std::env::consts::ARCH);
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    let values = [
        env!("CARGO_PKG_VERSION_MAJOR"),
        env!("CARGO_PKG_VERSION_MINOR"),
        &version,
        "",
        "",
        "",
        "",
        "rustc",
        &platform,
    ];
    let help = "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree \
                state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it \
                is running.";
    int_gauge_vec(registry, "kubernetes_build_info", help, &LABELS).with_label_values(&values).set(1);
}
