//! Where clients go: frontend x policy x source. Endpoint 1 is on this node, endpoint 2 on another.

use crate::world::{VIP, World, endpoint, service, slice};

const NODE: &str = "10.0.0.1";

/// A Service with every kind of frontend.
fn world(policies: &str) -> World {
    let fields = format!(
        "{VIP}\ntype: LoadBalancer\nexternalIPs: [192.0.2.2]\nports: [{{port: 80, nodePort: 30080}}]\n{policies}"
    );
    let status = "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}\n";
    let endpoints = slice("a", &(endpoint(1, "nodeName: n1") + &endpoint(2, "nodeName: n2")));
    let service = service(&fields).replace("  ports: [{port: 80}]\n", "");
    let mut world = World::new(&(service + status + &endpoints));
    world.addresses(&[NODE, "127.0.0.1"]);
    world
}

const CLUSTER_IP: &str = "10.96.0.1:80";
const EXTERNAL: [&str; 3] = ["192.0.2.1:80", "192.0.2.2:80", "10.0.0.1:30080"];
const ALL: &str = "[1, 2]";
const HERE: &str = "[1]";

#[test]
fn cluster_ip_with_internal_policy_cluster_leads_every_client_to_the_cluster_set() {
    assert_eq!(world("").tcp_from_all(CLUSTER_IP), [ALL; 3]);
    assert_eq!(world("externalTrafficPolicy: Local").tcp_from_all(CLUSTER_IP), [ALL; 3]);
}

#[test]
fn cluster_ip_with_internal_policy_local_leads_every_client_to_the_local_set() {
    assert_eq!(world("internalTrafficPolicy: Local").tcp_from_all(CLUSTER_IP), [HERE; 3]);
}

#[test]
fn external_addresses_with_external_policy_cluster_lead_every_client_to_the_cluster_set() {
    for policies in ["", "internalTrafficPolicy: Local"] {
        for address in EXTERNAL {
            assert_eq!(world(policies).tcp_from_all(address), [ALL; 3], "{address} {policies}");
        }
    }
}

#[test]
fn external_addresses_with_external_policy_local_lead_pods_and_the_host_to_the_cluster_set_and_others_to_the_local()
 {
    for policies in
        ["externalTrafficPolicy: Local", "externalTrafficPolicy: Local\ninternalTrafficPolicy: Local"]
    {
        for address in EXTERNAL {
            assert_eq!(world(policies).tcp_from_all(address), [ALL, ALL, HERE], "{address} {policies}");
        }
    }
}

#[test]
fn a_node_port_on_loopback_is_for_the_host_alone() {
    for policies in ["", "externalTrafficPolicy: Local"] {
        assert_eq!(
            world(policies).tcp_from_all("127.0.0.1:30080"),
            ["nothing", ALL, "nothing"],
            "{policies}"
        );
        assert_eq!(
            world(policies).tcp_from_all("127.9.9.9:30080"),
            ["nothing", ALL, "nothing"],
            "{policies}"
        );
    }
}

#[test]
fn an_endpoint_that_is_the_client_itself_is_as_good_as_any() {
    let found = world("").tcp(lb_userspace::desired::outcome::Client::Pod, "10.0.0.2", CLUSTER_IP);
    assert_eq!(found, ALL, "the packet path turns the packet around");
}
