//! kube-proxy's own metrics: names, types, labels, buckets and help as in k/k pkg/proxy/metrics/metrics.go (1.36),
//! except those named after iptables and nftables.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use prometheus::{
    Gauge, GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    exponential_buckets, linear_buckets,
};

use super::no_local::NoLocal;
use super::registry::{counter, counter_vec, gauge_vec, histogram_vec, int_gauge, int_gauge_vec, whole};
use crate::objects::name::Family;

/// The stability level of every metric, as in kube-proxy.
const ALPHA: &str = "[ALPHA] ";

pub(crate) struct KubeProxy {
    sync: HistogramVec,
    sync_full: HistogramVec,
    sync_partial: HistogramVec,
    last: GaugeVec,
    last_queued: GaugeVec,
    programming: HistogramVec,
    no_local: IntGaugeVec,
    reconciler: HistogramVec,
    reconciler_deleted: IntCounterVec,
    pub(crate) endpoint_changes: Changes,
    pub(crate) service_changes: Changes,
    pub(crate) healthz: IntCounterVec,
    pub(crate) livez: IntCounterVec,
}

/// Changes of one kind: all that arrived, and those that are not in the tables yet.
pub(crate) struct Changes {
    pending: IntGauge,
    total: IntCounter,
}

impl Changes {
    fn new(registry: &Registry, name: &str, of: &str) -> Self {
        let name = |which: &str| format!("kubeproxy_sync_proxy_rules_{name}_changes_{which}");
        Self {
            pending: int_gauge(
                registry,
                &name("pending"),
                &format!("{ALPHA}Pending proxy rules {of} changes"),
            ),
            total: counter(registry, &name("total"), &format!("{ALPHA}Cumulative proxy rules {of} changes")),
        }
    }

    pub(crate) fn count(&self) {
        self.pending.inc();
        self.total.inc();
    }

    pub(crate) fn settle(&self) {
        self.pending.set(0);
    }
}

impl KubeProxy {
    pub(crate) fn new(registry: &Registry) -> Self {
        let family = &["ip_family"];
        let name = |name: &str| format!("kubeproxy_{name}");
        let help = |help: &str| format!("{ALPHA}{help}");
        let histogram = |metric: &str, text: &str, buckets: Vec<f64>| {
            histogram_vec(registry, &name(metric), &help(text), buckets, family)
        };
        let latency = |metric: &str, text: &str| histogram(metric, text, sync_buckets());
        let gauge = |metric: &str, text: &str| gauge_vec(registry, &name(metric), &help(text), family);
        let codes = |metric: &str, text: &str| counter_vec(registry, &name(metric), &help(text), &["code"]);
        Self {
            sync: latency("sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds"),
            sync_full: latency(
                "sync_full_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for full resyncs",
            ),
            sync_partial: latency(
                "sync_partial_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for partial resyncs",
            ),
            last: gauge(
                "sync_proxy_rules_last_timestamp_seconds",
                "The last time proxy rules were successfully synced",
            ),
            last_queued: gauge(
                "sync_proxy_rules_last_queued_timestamp_seconds",
                "The last time a sync of proxy rules was queued",
            ),
            programming: histogram(
                "network_programming_duration_seconds",
                "In Cluster Network Programming Latency in seconds",
                programming_buckets(),
            ),
            no_local: int_gauge_vec(
                registry,
                &name("sync_proxy_rules_no_local_endpoints_total"),
                &help("Number of services with a Local traffic policy and no endpoints"),
                &["traffic_policy", "ip_family"],
            ),
            reconciler: latency(
                "conntrack_reconciler_sync_duration_seconds",
                "ReconcileConntrackFlowsLatency latency in seconds",
            ),
            reconciler_deleted: counter_vec(
                registry,
                &name("conntrack_reconciler_deleted_entries_total"),
                &help("Cumulative conntrack flows deleted by conntrack reconciler"),
                family,
            ),
            endpoint_changes: Changes::new(registry, "endpoint", "Endpoint"),
            service_changes: Changes::new(registry, "service", "Service"),
            healthz: codes("proxy_healthz_total", "Cumulative proxy healthz HTTP status"),
            livez: codes("proxy_livez_total", "Cumulative proxy livez HTTP status"),
        }
    }

    pub(crate) fn queued(&self, now: Timestamp) {
        for family in Family::BOTH {
            of(&self.last_queued, family).set(seconds(now));
        }
    }

    /// kube-proxy has a proxier for each family, and both run at each change; here one pass serves both.
    pub(crate) fn synced(&self, took: Duration, is_complete: bool, now: Timestamp) {
        let kind = if is_complete { &self.sync_full } else { &self.sync_partial };
        for family in Family::BOTH {
            for histogram in [&self.sync, kind] {
                histogram.with_label_values(&[label(family)]).observe(took.as_secs_f64());
            }
            of(&self.last, family).set(seconds(now));
        }
    }

    pub(crate) fn programmed(&self, family: Family, seconds: f64) {
        self.programming.with_label_values(&[label(family)]).observe(seconds);
    }

    pub(crate) fn no_local(&self, ports: &NoLocal) {
        for family in Family::BOTH {
            for (policy, count) in
                [("internal", ports.internal(family)), ("external", ports.external(family))]
            {
                self.no_local.with_label_values(&[policy, label(family)]).set(whole(count));
            }
        }
    }

    /// `removed` is indexed by [`Family`].
    pub(crate) fn swept(&self, took: Duration, removed: [u32; 2]) {
        for (family, removed) in Family::BOTH.into_iter().zip(removed) {
            self.reconciler.with_label_values(&[label(family)]).observe(took.as_secs_f64());
            self.reconciler_deleted.with_label_values(&[label(family)]).inc_by(removed.into());
        }
    }
}

fn of(gauge: &GaugeVec, family: Family) -> Gauge {
    gauge.with_label_values(&[label(family)])
}

fn label(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_nanosecond() as f64 / 1e9
}

/// 1 ms to 16.4 s.
fn sync_buckets() -> Vec<f64> {
    exponential_buckets(0.001, 2.0, 15).expect("the constants are valid")
}

/// k/k merges these after a first bucket of zero.
fn programming_buckets() -> Vec<f64> {
    let parts = [(0.25, 0.25, 2), (1.0, 1.0, 59), (60.0, 5.0, 12), (120.0, 30.0, 7)];
    let linear =
        |(start, width, count)| linear_buckets(start, width, count).expect("the constants are valid");
    std::iter::once(0.0).chain(parts.into_iter().flat_map(linear)).collect()
}
