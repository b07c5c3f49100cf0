//! The introspection server on port 10249.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_common::{Counter, Proto, Traffic};
use lb_userspace::dataplane::shape::Sizes;
use lb_userspace::desired::Desired;
use lb_userspace::objects::event::{Change, Event};
use lb_userspace::objects::name::{Family, ObjectName, ServicePortName};
use lb_userspace::observe::http::introspection_router;
use lb_userspace::observe::metrics::traffic::{Counted, families};
use lb_userspace::observe::moment::Moment;
use lb_userspace::observe::telemetry::{Sync, Telemetry};
use lb_userspace::source::api::CountRequests;
use prometheus::TextEncoder;
use serde_json::json;

use super::http::{get, serve};

#[tokio::test]
async fn mode_health_and_configuration_are_served() {
    let telemetry = Arc::new(Telemetry::new(Moment::now()));
    let address = serve(introspection_router(telemetry, json!({"mode": "", "oomScoreAdj": -999}))).await;
    let mode = get(address, "/proxyMode").await;
    assert_eq!((mode.code, mode.body.as_str()), (200, "ebpf"));
    assert_eq!(mode.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(get(address, "/healthz").await.body, "ok");
    let configz = get(address, "/configz").await;
    assert_eq!(configz.header("content-type"), Some("application/json"));
    assert_eq!(configz.body, r#"{"kubeproxy.config.k8s.io":{"mode":"","oomScoreAdj":-999}}"#);
    assert_eq!(get(address, "/debug/pprof").await.code, 404);
}

/// Every metric of kube-proxy that is not named after iptables or nftables, with its type and labels (k/k
/// pkg/proxy/metrics/metrics.go).
const KUBE_PROXY: [(&str, &str, &[&str]); 18] = [
    ("kubeproxy_sync_proxy_rules_duration_seconds", "histogram", &["ip_family"]),
    ("kubeproxy_sync_full_proxy_rules_duration_seconds", "histogram", &["ip_family"]),
    ("kubeproxy_sync_partial_proxy_rules_duration_seconds", "histogram", &["ip_family"]),
    ("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "gauge", &["ip_family"]),
    ("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "gauge", &["ip_family"]),
    ("kubeproxy_network_programming_duration_seconds", "histogram", &["ip_family"]),
    ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "gauge", &[]),
    ("kubeproxy_sync_proxy_rules_endpoint_changes_total", "counter", &[]),
    ("kubeproxy_sync_proxy_rules_service_changes_pending", "gauge", &[]),
    ("kubeproxy_sync_proxy_rules_service_changes_total", "counter", &[]),
    ("kubeproxy_sync_proxy_rules_no_local_endpoints_total", "gauge", &["ip_family", "traffic_policy"]),
    ("kubeproxy_conntrack_reconciler_sync_duration_seconds", "histogram", &["ip_family"]),
    ("kubeproxy_conntrack_reconciler_deleted_entries_total", "counter", &["ip_family"]),
    ("kubeproxy_proxy_healthz_total", "counter", &["code"]),
    ("kubeproxy_proxy_livez_total", "counter", &["code"]),
    ("rest_client_requests_total", "counter", &["code", "host", "method"]),
    ("rest_client_request_duration_seconds", "histogram", &["host", "verb"]),
    (
        "kubernetes_build_info",
        "gauge",
        &[
            "build_date",
            "compiler",
            "git_commit",
            "git_tree_state",
            "git_version",
            "go_version",
            "major",
            "minor",
            "platform",
        ],
    ),
];

#[tokio::test]
async fn every_metric_of_kube_proxy_is_there_under_its_name_with_its_type_and_labels() {
    let now = Moment::now();
    let telemetry = Arc::new(Telemetry::new(now));
    telemetry.event(&Event::Service(Change::Delete(ObjectName::new("d", "web"))));
    telemetry.queued(vec![(Family::Ipv4, now.wall + Duration::from_millis(1))], now);
    telemetry.desired(&Desired::default());
    let sync = |is_complete| Sync {
        began: Instant::now(),
        is_complete,
        is_idle: false,
        operations: 1,
        is_whole: true,
    };
    telemetry.synced(sync(true), Moment::now());
    telemetry.synced(sync(false), Moment::now());
    telemetry.swept(Instant::now(), [2, 0], Moment::now());
    telemetry.rest_client().count("GET", "10.0.0.1:6443", Some(200), Duration::from_millis(3));
    telemetry.rest_client().count("GET", "10.0.0.1:6443", None, Duration::from_millis(3));
    telemetry.answered_healthz(200);
    telemetry.answered_livez(200);
    let address = serve(introspection_router(telemetry, json!({}))).await;
    let answer = get(address, "/metrics").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for (name, kind, labels) in KUBE_PROXY {
        assert!(answer.body.contains(&format!("# TYPE {name} {kind}\n")), "{name} {kind}");
        let series =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| !rest.starts_with(char::is_alphabetic));
        let line = answer.body.lines().find(series).unwrap_or_else(|| panic!("no series of {name}"));
        let found: BTreeSet<&str> = line
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'))
            .into_iter()
            .flat_map(|(labels, _)| labels.split("\","))
            .filter_map(|label| label.split_once('='))
            .map(|(label, _)| label)
            .filter(|label| *label != "le")
            .collect();
        assert_eq!(found, labels.iter().copied().collect(), "{line}");
    }
    for line in [
        "rest_client_requests_total{code=\"200\",host=\"10.0.0.1:6443\",method=\"GET\"} 1",
        "rest_client_requests_total{code=\"<error>\",host=\"10.0.0.1:6443\",method=\"GET\"} 1",
        "kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv4\"} 2",
        "kubeproxy_sync_proxy_rules_service_changes_total 1",
    ] {
        assert!(answer.body.lines().any(|found| found == line), "{line}");
    }
}

#[test]
fn traffic_is_reported_by_service_port_and_backend_and_drops_by_reason() {
    let name = |port: &str| ServicePortName {
        namespace: "shop".into(),
        name: "web".into(),
        port: port.into(),
        proto: Proto::Tcp,
        family: Family::Ipv4,
    };
    let traffic = Traffic { connections: 3, packets: 10, bytes: 1000, reply_packets: 8, reply_bytes: 9000 };
    let counted = Counted {
        services: vec![(name("http"), traffic), (name("https"), Traffic::default())],
        backends: vec![(name("http"), "10.0.0.1:8080".into(), traffic)],
        left_out: [7, 9],
        reasons: vec![(Counter::DropNoEndpoint, 4), (Counter::FlowCreated, 5)],
        sizes: Sizes { flows: 1_000_000 },
    };
    let text = TextEncoder::new().encode_to_string(&families(&counted).unwrap()).unwrap();
    let service = "ip_family=\"IPv4\",namespace=\"shop\",port=\"http\",protocol=\"TCP\",service=\"web\"";
    for line in [
        format!("lb_service_connections_total{{{service}}} 3"),
        format!("lb_service_packets_total{{direction=\"request\",{service}}} 10"),
        format!("lb_service_bytes_total{{direction=\"reply\",{service}}} 9000"),
        format!("lb_backend_connections_total{{backend=\"10.0.0.1:8080\",{service}}} 3"),
        format!("lb_backend_packets_total{{backend=\"10.0.0.1:8080\",direction=\"reply\",{service}}} 8"),
        "lb_series_left_out{of=\"backend\"} 9".to_owned(),
        "lb_drops_total{reason=\"drop_no_endpoint\"} 4".to_owned(),
        "lb_packet_events_total{reason=\"flow_created\"} 5".to_owned(),
        "lb_map_capacity{map=\"frontends\"} 65536".to_owned(),
        "lb_map_capacity{map=\"flows\"} 1000000".to_owned(),
        "lb_map_capacity{map=\"flows_live\"} 435223".to_owned(),
        "lb_map_capacity{map=\"half_open\"} 16384".to_owned(),
        "lb_map_capacity{map=\"ended\"} 16384".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\nin\n{text}");
    }
}

#[test]
fn every_counter_that_ends_a_packet_is_a_drop() {
    for counter in Counter::ALL {
        let is_named_so = counter.name().starts_with("drop_") || counter.name().ends_with("_dropped");
        assert_eq!(counter.is_drop(), is_named_so, "{}", counter.name());
    }
}
