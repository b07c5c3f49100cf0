//! The examples in the repository work as they stand, and `lb services -o json` has the shape of docs/output.md.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its failure")]

use std::path::Path;

use lb_userspace::model::Severity;
use lb_userspace::view;
use serde_json::json;

fn tables() -> lb_userspace::tables::Tables {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let (tables, notices) = view::tables_from_manifests(&dir, view::Node::named("node-1")).unwrap();
    let complaints: Vec<String> =
        notices.iter().filter(|n| n.severity > Severity::Info).map(ToString::to_string).collect();
    assert_eq!(complaints, [""; 0]);
    tables
}

#[test]
fn every_port_of_the_examples_has_three_endpoints_in_its_family() {
    let services = view::services(&tables());
    let ports: Vec<String> =
        services.iter().map(|s| format!("{}:{}/{}/{}", s.name, s.port_name, s.protocol, s.family)).collect();
    let expected = [
        "myapp:http/TCP/IPv4",
        "myapp:http/TCP/IPv6",
        "myapp:metrics/TCP/IPv4",
        "myapp:metrics/TCP/IPv6",
        "nginx:http/TCP/IPv4",
        "nginx:http/TCP/IPv6",
        "redis:/TCP/IPv4",
        "dns:dns/UDP/IPv4",
        "dns:dns/UDP/IPv6",
        "dns:dns-tcp/TCP/IPv4",
        "dns:dns-tcp/TCP/IPv6",
    ];
    assert_eq!(ports, expected);
    for service in &services {
        assert_eq!((service.frontends.len(), service.cluster_endpoints.len()), (1, 3), "{service:?}");
    }
}

#[test]
fn the_shape_of_a_service_in_json() {
    let services = view::services(&tables());
    let nginx = services.iter().find(|s| s.name == "nginx" && s.family == "IPv6").unwrap();
    let expected = json!({
        "namespace": "default",
        "name": "nginx",
        "portName": "http",
        "protocol": "TCP",
        "family": "IPv6",
        "frontends": [{
            "kind": "ClusterIP",
            "address": "[fd00:10:96::a10]:80",
            "clients": {"pod": "cluster", "host": "cluster", "outside": "cluster"},
        }],
        "clusterEndpoints": [
            "[fd00:10:244:1::11]:8080", "[fd00:10:244:1::12]:8080", "[fd00:10:244:1::13]:8080",
        ],
        "localEndpoints": [],
        "internalTrafficPolicy": "Cluster",
        "externalTrafficPolicy": "Cluster",
        "sessionAffinity": {"type": "None", "timeoutSeconds": null},
        "algorithm": "random",
    });
    assert_eq!(serde_json::to_value(nginx).unwrap(), expected);
}

#[test]
fn the_shape_of_a_backend_in_json() {
    let backends = view::backends(&tables());
    let redis = backends.iter().find(|b| b.name == "redis").unwrap();
    let expected = json!({
        "id": redis.id,
        "namespace": "default",
        "name": "redis",
        "portName": "",
        "protocol": "TCP",
        "family": "IPv4",
        "address": "10.244.1.11:6379",
        "state": "active",
        "generation": 1,
        "weight": 1,
        "sets": ["cluster"],
    });
    assert_eq!(serde_json::to_value(redis).unwrap(), expected);
    assert_eq!(backends.len(), 33);
}
