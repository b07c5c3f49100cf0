//! Metrics change when they should, under kube-proxy's names.

use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::ToSpan;
use lb_userspace::desired::Desired;
use lb_userspace::model::Model;
use lb_userspace::objects::event::{Change, Event};
use lb_userspace::objects::node::Node;
use lb_userspace::objects::service::Service;
use lb_userspace::objects::slice::Slice;
use lb_userspace::observe::moment::Moment;
use lb_userspace::observe::telemetry::{Sync, Telemetry};
use prometheus::TextEncoder;

const NODE: &str = "n1";

/// A model, and the telemetry that the agent's loop would report about it.
struct Loop {
    telemetry: Telemetry,
    model: Model,
    now: Moment,
}

impl Loop {
    fn new() -> Self {
        let now = Moment::now();
        let mut this = Self { telemetry: Telemetry::new(now), model: Model::new(NODE), now };
        this.take([Event::Service(Change::Init), Event::Slice(Change::Init), Event::Node(Change::Init)]);
        this.take([
            Event::Service(Change::InitDone),
            Event::Slice(Change::InitDone),
            Event::Node(Change::InitDone),
        ]);
        this.settle();
        this
    }

    fn later(&mut self, by: Duration) {
        self.now = Moment { mono: self.now.mono + by, wall: self.now.wall + by };
    }

    fn take(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.telemetry.event(&event);
            self.model.apply(event);
        }
        self.telemetry.queued(self.model.take_triggers(), self.now);
        self.telemetry.health(|health| health.set_node(self.model.node()));
    }

    fn settle(&mut self) {
        let desired = self.model.desired();
        self.telemetry.desired(&desired);
        self.synced(&desired, 3, true);
    }

    fn synced(&self, desired: &Desired, operations: usize, is_whole: bool) {
        let sync = Sync {
            began: self.now.mono - Duration::from_millis(3),
            is_complete: desired.complete,
            is_idle: desired.is_empty(),
            operations,
            is_whole,
        };
        self.telemetry.synced(sync, self.now);
    }

    fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.telemetry.registry().gather()).expect("metrics")
    }

    /// The value of a series, as written in the text.
    fn value(&self, series: &str) -> Option<String> {
        let line = |line: &str| Some(line.strip_prefix(series)?.strip_prefix(' ')?.to_owned());
        self.text().lines().find_map(line)
    }
}

fn service(external_policy: &str) -> Event {
    let yaml = format!(
        "{{metadata: {{namespace: d, name: web}}, spec: {{type: LoadBalancer, clusterIPs: [10.96.0.1], \
         ports: [{{port: 80, nodePort: 30080}}], externalTrafficPolicy: {external_policy}, \
         internalTrafficPolicy: Local}}}}"
    );
    Event::Service(Change::Apply(Service::new(serde_yaml_ng::from_str(&yaml).expect("YAML"), None)))
}

fn slice(node: &str, trigger_time: Option<&str>) -> Event {
    let annotation = trigger_time.map_or_else(String::new, |time| {
        format!("annotations: {{endpoints.kubernetes.io/last-change-trigger-time: \"{time}\"}}, ")
    });
    let yaml = format!(
        "{{metadata: {{{annotation}namespace: d, name: web-1, labels: {{kubernetes.io/service-name: web}}}}, \
         addressType: IPv4, ports: [{{port: 8080}}], endpoints: [{{addresses: [10.0.0.1], nodeName: {node}}}]}}"
    );
    let slice: EndpointSlice = serde_yaml_ng::from_str(&yaml).expect("YAML");
    Event::Slice(Change::Apply(Slice::new(slice, None)))
}

#[test]
fn changes_are_counted_and_pend_until_the_tables_follow() {
    let mut agent = Loop::new();
    agent.take([service("Cluster"), slice(NODE, None), slice("n2", None)]);
    let name = |rest: &str| format!("kubeproxy_sync_proxy_rules_{rest}");
    assert_eq!(agent.value(&name("service_changes_pending")).unwrap(), "1");
    assert_eq!(agent.value(&name("endpoint_changes_pending")).unwrap(), "2");
    let desired = agent.model.desired();
    agent.synced(&desired, 5, false);
    assert_eq!(agent.value(&name("endpoint_changes_pending")).unwrap(), "2", "one waits for a grace period");
    agent.synced(&Desired::default(), 1, true);
    assert_eq!(agent.value(&name("service_changes_pending")).unwrap(), "0");
    assert_eq!(agent.value(&name("endpoint_changes_pending")).unwrap(), "0");
    assert_eq!(agent.value(&name("service_changes_total")).unwrap(), "1");
    assert_eq!(agent.value(&name("endpoint_changes_total")).unwrap(), "2");
}

#[test]
fn a_pass_is_timed_by_family_and_extent() {
    let mut agent = Loop::new();
    let count = |agent: &Loop, kind: &str| {
        agent.value(&format!("kubeproxy_sync_{kind}proxy_rules_duration_seconds_count{{ip_family=\"IPv4\"}}"))
    };
    assert_eq!(count(&agent, "").as_deref(), Some("1"));
    assert_eq!(count(&agent, "full_").as_deref(), Some("1"));
    assert_eq!(count(&agent, "partial_"), None);
    agent.take([service("Cluster")]);
    agent.settle();
    assert_eq!(count(&agent, "").as_deref(), Some("2"));
    assert_eq!(count(&agent, "partial_").as_deref(), Some("1"));
    // Nothing changed and nothing was written.
    agent.synced(&Desired::default(), 0, true);
    assert_eq!(count(&agent, "").as_deref(), Some("2"));
    assert_eq!(agent.value("lb_sync_operations_sum").as_deref(), Some("6"));
    let text = agent.text();
    // 3 ms lie between the bounds 2 ms and 4 ms.
    for line in [
        "# TYPE kubeproxy_sync_proxy_rules_duration_seconds histogram",
        "# HELP kubeproxy_sync_proxy_rules_duration_seconds [ALPHA] SyncProxyRules latency in seconds",
        "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv6\",le=\"0.002\"} 0",
        "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv6\",le=\"0.004\"} 2",
        "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv6\",le=\"16.384\"} 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\nin\n{text}");
    }
}

#[test]
fn timestamps_say_when_a_pass_was_asked_for_and_when_it_ended() {
    let mut agent = Loop::new();
    let value = |agent: &Loop, name: &str| -> f64 {
        let series = format!("kubeproxy_sync_proxy_rules_last_{name}timestamp_seconds{{ip_family=\"IPv6\"}}");
        agent.value(&series).unwrap().parse().unwrap()
    };
    let first = value(&agent, "");
    agent.later(Duration::from_secs(5));
    agent.take([service("Cluster")]);
    assert!((value(&agent, "queued_") - first - 5.0).abs() < 0.01);
    assert!((value(&agent, "") - first).abs() < 0.01);
    agent.later(Duration::from_secs(2));
    agent.settle();
    assert!((value(&agent, "") - first - 7.0).abs() < 0.01);
}

#[test]
fn network_programming_goes_from_the_trigger_to_the_tables() {
    let mut agent = Loop::new();
    let series = |rest: &str| format!("kubeproxy_network_programming_duration_seconds_{rest}");
    let before = agent.now.wall.checked_sub(1.second()).unwrap();
    agent.take([service("Cluster"), slice("n2", Some(&before.to_string()))]);
    agent.settle();
    assert_eq!(
        agent.value(&series("count{ip_family=\"IPv4\"}")),
        None,
        "the trigger happened before the agent started"
    );

    let trigger = agent.now.wall.checked_add(1.second()).unwrap().to_string();
    agent.later(Duration::from_secs(3));
    agent.take([slice(NODE, Some(&trigger))]);
    agent.later(Duration::from_secs(1));
    agent.settle();
    assert_eq!(agent.value(&series("count{ip_family=\"IPv4\"}")).as_deref(), Some("1"));
    assert_eq!(agent.value(&series("bucket{ip_family=\"IPv4\",le=\"2\"}")).as_deref(), Some("0"));
    assert_eq!(agent.value(&series("bucket{ip_family=\"IPv4\",le=\"4\"}")).as_deref(), Some("1"));
    assert_eq!(agent.value(&series("bucket{ip_family=\"IPv4\",le=\"0\"}")).as_deref(), Some("0"));
    assert_eq!(agent.value(&series("bucket{ip_family=\"IPv4\",le=\"300\"}")).as_deref(), Some("1"));
    // The same slice comes again, as after an interrupted watch.
    agent.take([slice(NODE, Some(&trigger))]);
    agent.settle();
    assert_eq!(agent.value(&series("count{ip_family=\"IPv4\"}")).as_deref(), Some("1"));
}

#[test]
fn service_ports_without_a_local_endpoint_are_counted_by_policy() {
    let mut agent = Loop::new();
    let value = |agent: &Loop, policy: &str| {
        let labels = format!("{{ip_family=\"IPv4\",traffic_policy=\"{policy}\"}}");
        agent.value(&format!("kubeproxy_sync_proxy_rules_no_local_endpoints_total{labels}")).unwrap()
    };
    agent.take([service("Local"), slice("n2", None)]);
    agent.settle();
    assert_eq!([value(&agent, "internal"), value(&agent, "external")], ["1", "1"]);
    agent.take([service("Cluster")]);
    agent.settle();
    assert_eq!([value(&agent, "internal"), value(&agent, "external")], ["1", "0"]);
    agent.take([slice(NODE, None)]);
    agent.settle();
    assert_eq!([value(&agent, "internal"), value(&agent, "external")], ["0", "0"]);
}

#[test]
fn an_update_that_waits_makes_the_agent_unhealthy_and_its_success_healthy() {
    let mut agent = Loop::new();
    agent.take([service("Cluster")]);
    agent.later(Duration::from_secs(61));
    let now = agent.now;
    assert!(!agent.telemetry.health(|health| health.is_healthy(now)));
    agent.settle();
    assert!(agent.telemetry.health(|health| health.is_healthy(now)));
}

#[test]
fn a_node_is_eligible_until_it_is_to_leave() {
    use lb_userspace::observe::health::Eligibility;
    let mut agent = Loop::new();
    let eligibility = |agent: &Loop| agent.telemetry.health(|health| health.eligibility());
    assert_eq!(eligibility(&agent), Eligibility::NodeUnknown);
    for (node, expected) in [
        ("metadata: {name: n1}", Eligibility::Eligible),
        (
            "{metadata: {name: n1}, spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}}",
            Eligibility::NodeLeaving,
        ),
        ("{metadata: {name: n1, deletionTimestamp: \"2026-01-01T00:00:00Z\"}}", Eligibility::NodeLeaving),
        ("{metadata: {name: n1}, spec: {taints: [{key: other, effect: NoSchedule}]}}", Eligibility::Eligible),
    ] {
        agent.take([Event::Node(Change::Apply(Node::new(serde_yaml_ng::from_str(node).unwrap())))]);
        assert_eq!(eligibility(&agent), expected, "{node}");
    }
}
