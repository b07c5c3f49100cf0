//! Our own metrics that the loop keeps, and how any metric is registered.

use prometheus::core::Collector;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

pub(super) struct Metrics {
    pub(super) operations: Histogram,
    pub(super) failures: IntCounter,
    links_attached: IntGauge,
    links_wanted: IntGauge,
    entries: IntGaugeVec,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            operations: register(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "lb_sync_operations",
                        "Map operations of a pass from objects to tables",
                    )
                    .buckets(vec![0.0, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0]),
                ),
            ),
            failures: counter(
                registry,
                "lb_sync_failures_total",
                "Passes that the kernel refused, each tried again a second later",
            ),
            links_attached: int_gauge(registry, "lb_links_attached", "Links that have the programs"),
            links_wanted: int_gauge(registry, "lb_links_wanted", "Links that should have the programs"),
            entries: int_gauge_vec(registry, "lb_map_entries", "Entries of a map that are in use", &["map"]),
        }
    }

    pub(super) fn set_entries(&self, map: &str, entries: usize) {
        self.entries.with_label_values(&[map]).set(whole(entries));
    }

    pub(super) fn set_links(&self, attached: usize, wanted: usize) {
        self.links_attached.set(whole(attached));
        self.links_wanted.set(whole(wanted));
    }
}

/// As gauges have it.
pub(super) fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Names are constants of this crate, and each is registered once.
fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<C>) -> C {
    let metric = metric.expect("a valid name and valid labels");
    registry.register(Box::new(metric.clone())).expect("a name that is new to the registry");
    metric
}

pub(super) fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help))
}

pub(super) fn counter_vec(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

pub(super) fn int_gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help))
}

pub(super) fn int_gauge_vec(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

pub(super) fn gauge_vec(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    register(registry, GaugeVec::new(Opts::new(name, help), labels))
}

pub(super) fn histogram_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: Vec<f64>,
    labels: &[&str],
) -> HistogramVec {
    register(registry, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels))
}
