//! The examples in the repository work unchanged, and `lb services -o json` has the shape of docs/output.md.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its failure")]

use std::path::Path;

use lb_userspace::command::{backends, services, view};
use lb_userspace::model::Rules;
use lb_userspace::objects::notice::Severity;
use serde_json::json;

fn tables() -> lb_userspace::tables::Tables {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let (tables, notices) =
        view::files::tables_from_manifests(&dir, view::files::Viewpoint::named("node-1")).unwrap();
    let complaints: Vec<String> =
        notices.iter().filter(|n| n.severity > Severity::Info).map(ToString::to_string).collect();
    let [shop] = complaints.as_slice() else { panic!("{complaints:?}") };
    assert!(
        shop.starts_with("shop.yaml: Service default/shop: ") && shop.ends_with(" outside the cluster"),
        "{shop}"
    );
    tables
}

#[test]
fn every_port_of_the_examples_has_what_it_shows() {
    let services = services::of_tables(&tables());
    let ports: Vec<String> = services
        .iter()
        .map(|s| {
            let kinds: Vec<&str> = s.frontends.iter().map(|frontend| frontend.kind.as_str()).collect();
            let (name, port, family) = (&s.name, &s.port_name, &s.family);
            let affinity = &s.session_affinity.kind;
            format!(
                "{name}:{port}/{}/{family} {kinds:?} {} {affinity}",
                s.protocol,
                s.cluster_endpoints.len()
            )
        })
        .collect();
    let expected = [
        "cart:http/TCP/IPv4 [\"ClusterIP\"] 3 ClientIP",
        "myapp:http/TCP/IPv4 [\"ClusterIP\"] 3 None",
        "myapp:http/TCP/IPv6 [\"ClusterIP\"] 3 None",
        "myapp:metrics/TCP/IPv4 [\"ClusterIP\"] 3 None",
        "myapp:metrics/TCP/IPv6 [\"ClusterIP\"] 3 None",
        "nginx:http/TCP/IPv4 [\"ClusterIP\"] 3 None",
        "nginx:http/TCP/IPv6 [\"ClusterIP\"] 3 None",
        "offline:http/TCP/IPv4 [\"ClusterIP\"] 0 None",
        "redis:/TCP/IPv4 [\"ClusterIP\"] 3 None",
        "shop:http/TCP/IPv4 [\"ClusterIP\", \"NodePort\"] 3 None",
        "shop:http/TCP/IPv6 [\"ClusterIP\", \"NodePort\"] 3 None",
        "dns:dns/UDP/IPv4 [\"ClusterIP\"] 3 None",
        "dns:dns/UDP/IPv6 [\"ClusterIP\"] 3 None",
        "dns:dns-tcp/TCP/IPv4 [\"ClusterIP\"] 3 None",
        "dns:dns-tcp/TCP/IPv6 [\"ClusterIP\"] 3 None",
    ];
    assert_eq!(ports, expected);
}

#[test]
fn the_shape_of_a_service_in_json() {
    let services = services::of_tables(&tables());
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

const BALANCED: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: 10.96.10.10
  externalTrafficPolicy: Local
  healthCheckNodePort: 32000
  externalIPs: [198.51.100.1]
  loadBalancerSourceRanges: [192.0.2.0/24, 10.0.0.0/8]
  ports: [{port: 80, nodePort: 30080}]
status: {loadBalancer: {ingress: [{ip: 192.0.2.10}]}}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: default}
spec: {clusterIP: None, ports: [{port: 5432}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-1}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {name: web-a, namespace: default, labels: {kubernetes.io/service-name: web}}
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.2.11], nodeName: node-2}, {addresses: [10.244.2.300]}]
";

#[test]
fn the_shape_of_a_service_in_json_from_files() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.yaml"), BALANCED).unwrap();
    let addresses = ["127.0.0.1", "10.0.0.1"].map(|text| text.parse::<std::net::IpAddr>().unwrap().into());
    let rules = Rules { external_ip_cidrs: "none".parse().unwrap(), ..Rules::default() };
    let node = view::files::Viewpoint { name: "node-1".into(), addresses: Some(addresses.to_vec()), rules };
    let views = services::of_model(&view::files::model_from_manifests(dir.path(), node).unwrap());
    let from_outside = |outcome: &str| json!({"pod": "cluster", "host": "cluster", "outside": outcome});
    let expected = json!([
        {
            "namespace": "default",
            "name": "db",
            "portName": "",
            "protocol": "",
            "family": "",
            "frontends": [],
            "clusterEndpoints": [],
            "localEndpoints": [],
            "internalTrafficPolicy": "Cluster",
            "externalTrafficPolicy": "Cluster",
            "sessionAffinity": {"type": "None", "timeoutSeconds": null},
            "algorithm": "random",
            "sourceRanges": [],
            "sourceRangesAdmitVips": false,
            "nodePortAddresses": [],
            "nodePortOnLoopback": false,
            "healthCheck": null,
            "unserved": "headless",
            "notices": [],
        },
        {
            "namespace": "default",
            "name": "web",
            "portName": "",
            "protocol": "TCP",
            "family": "IPv4",
            "frontends": [
                {"kind": "ClusterIP", "address": "10.96.10.10:80", "clients": from_outside("cluster")},
                {"kind": "LoadBalancer", "address": "192.0.2.10:80", "clients": from_outside("drop")},
                {"kind": "NodePort", "address": "0.0.0.0:30080", "clients": from_outside("drop")},
            ],
            "clusterEndpoints": ["10.244.2.11:8080"],
            "localEndpoints": [],
            "internalTrafficPolicy": "Cluster",
            "externalTrafficPolicy": "Local",
            "sessionAffinity": {"type": "None", "timeoutSeconds": null},
            "algorithm": "random",
            "sourceRanges": ["10.0.0.0/8", "192.0.2.0/24"],
            "sourceRangesAdmitVips": true,
            "nodePortAddresses": ["10.0.0.1"],
            "nodePortOnLoopback": true,
            "healthCheck": {"port": 32000, "localEndpoints": 0},
            "unserved": null,
            "notices": [
                "warning: externalIPs: 198.51.100.1 is not within --external-ip-cidrs none: ignored",
                "warning: its node ports, load balancer addresses and externalIPs are served to pods and processes of the node, but not yet to clients outside the cluster",
                "error: endpoint: \"10.244.2.300\" is not an IP address",
            ],
        },
    ]);
    assert_eq!(serde_json::to_value(views).unwrap(), expected);
}

#[test]
fn the_shape_of_a_backend_in_json() {
    let backends = backends::of_tables(&tables());
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
    assert_eq!(backends.len(), 42);
}
