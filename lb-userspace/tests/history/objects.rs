//! Small objects for random histories, in the form in which Kubernetes prints them.

use std::net::IpAddr;

use lb_userspace::objects::event::{Change, Event};
use lb_userspace::objects::name::ObjectName;
use lb_userspace::objects::node::Node;
use lb_userspace::objects::service::Service;
use lb_userspace::objects::slice::Slice;
use proptest::prelude::*;
use serde_json::{Value, json};

pub const NODE: &str = "node-0";

/// There are few addresses, so that Services clash.
pub const VIPS: [&str; 5] = ["10.96.0.1", "10.96.0.2", "10.96.0.3", "fd00::1", "fd00::2"];
/// Some of these are also addresses of another kind.
pub const BALANCERS: [&str; 3] = ["203.0.113.1", "203.0.113.2", "2001:db8:1::1"];
pub const EXTERNALS: [&str; 4] = ["198.51.100.1", "203.0.113.1", "10.96.0.2", "2001:db8:2::1"];
/// The node has no address, so 127.0.0.1 stands for it.
pub const RANGES: [&str; 4] = ["192.0.2.0/24", "127.0.0.0/8", "0.0.0.0/0", "2001:db8:9::/48"];
pub const PORTS: [(&str, u16, &str); 3] = [("a", 80, "TCP"), ("b", 80, "UDP"), ("c", 81, "TCP")];

#[derive(Clone, Debug, PartialEq)]
pub struct TestService {
    pub name: usize,
    pub created: Option<u32>,
    pub vips: Vec<usize>,
    pub ports: Vec<usize>,
    pub internal_local: bool,
    pub external_local: bool,
    pub node_port: bool,
    pub balancers: Vec<usize>,
    pub externals: Vec<usize>,
    pub ranges: Vec<usize>,
    pub other_proxy: bool,
    pub affinity: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TestSlice {
    pub name: usize,
    pub service: usize,
    pub is_v6: bool,
    pub headless: bool,
    pub ports: Vec<(usize, u32)>,
    pub endpoints: Vec<TestEndpoint>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TestEndpoint {
    pub address: u8,
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
    pub node: Option<u8>,
    pub for_nodes: Vec<u8>,
    pub for_zones: Vec<u8>,
}

impl TestEndpoint {
    pub fn ip(&self, is_v6: bool) -> IpAddr {
        let text = if is_v6 {
            format!("fd00:1::{}", self.address + 1)
        } else {
            format!("10.0.0.{}", self.address + 1)
        };
        text.parse().unwrap()
    }
}

pub fn service_event(service: &TestService) -> Event {
    let ips: Vec<&str> = service.vips.iter().map(|vip| VIPS[*vip]).collect();
    let families: Vec<&str> = ips.iter().map(|ip| if ip.contains(':') { "IPv6" } else { "IPv4" }).collect();
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| {
            let (name, number, protocol) = PORTS[*port];
            let node_port = if service.node_port { 30_000 + *port } else { 0 };
            json!({"name": name, "port": number, "protocol": protocol, "nodePort": node_port})
        })
        .collect();
    let kind = match service {
        service if !service.balancers.is_empty() => "LoadBalancer",
        service if service.node_port => "NodePort",
        _ => "ClusterIP",
    };
    let ingress = service.balancers.iter().map(|ip| json!({"ip": BALANCERS[*ip]}));
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "ns", "name": format!("s{}", service.name), "labels": {}},
        "spec": {
            "type": kind,
            "externalIPs": service.externals.iter().map(|ip| EXTERNALS[*ip]).collect::<Vec<_>>(),
            "loadBalancerSourceRanges": service.ranges.iter().map(|net| RANGES[*net]).collect::<Vec<_>>(),
            "clusterIP": ips.first().unwrap_or(&"None"), "clusterIPs": ips, "ipFamilies": families, "ports": ports,
            "internalTrafficPolicy": if service.internal_local { "Local" } else { "Cluster" },
            "externalTrafficPolicy": if service.external_local { "Local" } else { "Cluster" },
        },
        "status": {"loadBalancer": {"ingress": ingress.collect::<Vec<_>>()}},
    });
    if let Some(created) = service.created {
        object["metadata"]["creationTimestamp"] = json!(format!("2026-01-01T00:00:{created:02}Z"));
    }
    if service.other_proxy {
        object["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"] = json!("other");
    }
    if let Some(seconds) = service.affinity {
        object["spec"]["sessionAffinity"] = json!("ClientIP");
        object["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
    }
    let object = serde_json::from_value(object).unwrap();
    Event::Service(Change::Apply(Service::new(object, None)))
}

pub fn slice_event(slice: &TestSlice) -> Event {
    let endpoints: Vec<Value> = slice
        .endpoints
        .iter()
        .map(|e| {
            json!({
                "addresses": [e.ip(slice.is_v6).to_string(), "192.0.2.1"],
                "conditions": {"ready": e.ready, "serving": e.serving, "terminating": e.terminating},
                "nodeName": e.node.map(|node| format!("node-{node}")),
                "hints": {
                    "forNodes": e.for_nodes.iter().map(|n| json!({"name": format!("node-{n}")})).collect::<Vec<_>>(),
                    "forZones": e.for_zones.iter().map(|z| json!({"name": format!("zone-{z}")})).collect::<Vec<_>>(),
                },
            })
        })
        .collect();
    let ports: Vec<Value> = slice
        .ports
        .iter()
        .map(|(port, number)| {
            let (name, _, protocol) = PORTS[*port];
            json!({"name": name, "protocol": protocol, "port": number})
        })
        .collect();
    let mut object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "ns", "name": format!("e{}", slice.name),
            "labels": {"kubernetes.io/service-name": format!("s{}", slice.service)},
        },
        "addressType": if slice.is_v6 { "IPv6" } else { "IPv4" },
        "ports": ports, "endpoints": endpoints,
    });
    if slice.headless {
        object["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
    }
    let object = serde_json::from_value(object).unwrap();
    Event::Slice(Change::Apply(Slice::new(object, None)))
}

pub fn node_event(zone: Option<u8>) -> Event {
    let mut labels = json!({});
    if let Some(zone) = zone {
        labels["topology.kubernetes.io/zone"] = json!(format!("zone-{zone}"));
    }
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": labels}});
    Event::Node(Change::Apply(Node::new(serde_json::from_value(object).unwrap())))
}

pub fn name(prefix: char, number: usize) -> ObjectName {
    ObjectName::new("ns", format!("{prefix}{number}"))
}

pub fn service() -> impl Strategy<Value = TestService> {
    let policies = (any::<bool>(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.1));
    // Most Services have only their ClusterIP as an address.
    let some = |all: usize| prop_oneof![2 => Just(vec![]), 1 => prop::sample::subsequence((0..all).collect::<Vec<_>>(), 1..=all)];
    (
        0..4_usize,
        prop::option::of(0..3_u32),
        prop_oneof![
            Just(vec![]),
            prop::sample::select(vec![vec![0], vec![1], vec![2], vec![3], vec![0, 3], vec![4, 1]])
        ],
        prop::sample::subsequence(vec![0, 1, 2], 0..=3),
        policies,
        prop::option::of(1..3_u32),
        (some(BALANCERS.len()), some(EXTERNALS.len()), some(RANGES.len())),
    )
        .prop_map(|(name, created, vips, ports, policies, affinity, outer)| TestService {
            name,
            created,
            vips,
            ports,
            internal_local: policies.0,
            external_local: policies.1,
            node_port: policies.2,
            balancers: outer.0,
            externals: outer.1,
            ranges: outer.2,
            other_proxy: policies.3,
            affinity,
        })
}

pub fn slice() -> impl Strategy<Value = TestSlice> {
    (
        0..6_usize,
        0..4_usize,
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.1),
        prop::collection::vec((0..3_usize, prop::sample::select(vec![8080, 8081, 0, 70_000])), 0..4),
        prop::collection::vec(endpoint(), 0..6),
    )
        .prop_map(|(name, service, is_v6, headless, ports, endpoints)| TestSlice {
            name,
            service,
            is_v6,
            headless,
            ports,
            endpoints,
        })
}

fn endpoint() -> impl Strategy<Value = TestEndpoint> {
    let condition = || prop::option::of(any::<bool>());
    let hints = || prop_oneof![1 => Just(vec![]), 3 => prop::collection::vec(0..2_u8, 1..3)];
    (0..5_u8, condition(), condition(), condition(), prop::option::of(0..2_u8), hints(), hints()).prop_map(
        |(address, ready, serving, terminating, node, for_nodes, for_zones)| TestEndpoint {
            address,
            ready,
            serving,
            terminating,
            node,
            for_nodes,
            for_zones,
        },
    )
}
