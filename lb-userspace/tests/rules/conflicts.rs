//! An address and port that two Services ask for: the older Service gets it, across all kinds of frontends.

use crate::world::{READY, World, endpoint, keys, service, slice};

/// Service `name`, created in second `born`, with a port 80 and these fields.
fn aged(name: &str, born: u8, fields: &str, status: &str) -> String {
    let metadata = format!("{{name: {name}, creationTimestamp: '2026-01-01T00:00:0{born}Z'}}");
    service(fields).replace("{name: s}", &metadata) + status
}

fn errors(world: &mut World) -> Vec<String> {
    world.notices().into_iter().filter(|notice| notice.starts_with("error")).collect()
}

const BALANCED: &str = "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}\n";

#[test]
fn a_load_balancer_address_that_is_an_older_services_external_ip_is_refused() {
    let young = aged("a", 2, "clusterIP: 10.96.0.1\ntype: LoadBalancer", BALANCED);
    let old = aged("b", 1, "clusterIP: 10.96.0.2\nexternalIPs: [192.0.2.1]", "");
    let mut world = World::new(&(young.clone() + &old));
    assert_eq!(keys(&mut world), ["10.96.0.1:80", "10.96.0.2:80", "192.0.2.1:80"]);
    let refused = "error Service default/a: port \"\": 192.0.2.1:80/TCP belongs as an externalIP to port \"\" of Service \
                   default/b, which is older or first by name";
    assert_eq!(errors(&mut world), [refused]);
    // The address is added when the older Service gives it up, and only these two Services are decided again.
    world.apply(&aged("b", 1, "clusterIP: 10.96.0.2", ""));
    let desired = world.desired();
    assert_eq!(desired.services.keys().map(|port| &*port.name).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(errors(&mut world), [""; 0]);
}

#[test]
fn a_node_port_that_an_older_service_has_is_refused_in_that_protocol() {
    let fields = |ip: u8| format!("clusterIP: 10.96.0.{ip}\ntype: NodePort");
    let port = |yaml: String| yaml.replace("{port: 80}", "{port: 80, nodePort: 30080}");
    let mut world = World::new(&(port(aged("a", 2, &fields(1), "")) + &port(aged("b", 1, &fields(2), ""))));
    assert_eq!(keys(&mut world), ["10.96.0.1:80", "0.0.0.0:30080", "10.96.0.2:80"]);
    let refused = "error Service default/a: port \"\": node port 30080/TCP of IPv4 belongs to port \"\" of Service default/b, \
                   which is older or first by name";
    assert_eq!(errors(&mut world), [refused]);
}

#[test]
fn an_external_ip_that_is_an_older_services_cluster_ip_is_refused() {
    let young = aged("a", 2, "clusterIP: 10.96.0.1\nexternalIPs: [10.96.0.2]", "");
    let old = aged("b", 1, "clusterIP: 10.96.0.2", "");
    let mut world = World::new(&(young + &old));
    assert_eq!(keys(&mut world), ["10.96.0.1:80", "10.96.0.2:80"]);
    assert!(errors(&mut world)[0].contains("belongs as its ClusterIP to port \"\" of Service default/b"));
}

/// Only some notices are due as Events, which inform the Service's owner.
#[test]
fn events_are_due_for_addresses_of_others_and_for_ports_that_sctp_cannot_change() {
    let young =
        aged("s", 2, "clusterIP: 10.96.0.1", "").replace("[{port: 80}]", "[{port: 80, protocol: SCTP}]");
    let old = aged("b", 1, "clusterIP: 10.96.0.2\nexternalIPs: [192.0.2.1]", "");
    let third = aged("c", 3, "clusterIP: 10.96.0.3\nexternalIPs: [192.0.2.1]", "");
    let endpoints = slice("e", &endpoint(1, READY)).replace("{port: 8080}", "{port: 8080, protocol: SCTP}");
    let mut world = World::new(&(young + &old + &third + &endpoints));
    world.desired();
    let due = world
        .model
        .notices()
        .filter_map(|notice| Some((notice.reason?, notice.subject.as_ref().map(ToString::to_string)?)));
    let expected = [("AddressConflict", "Service default/c"), ("SCTPPortChange", "Service default/s")];
    assert_eq!(due.collect::<Vec<_>>(), expected.map(|(reason, subject)| (reason, subject.to_owned())));
}

#[test]
fn a_port_that_lost_all_its_addresses_is_not_desired() {
    let young = aged("a", 2, "clusterIP: 10.96.0.1", "");
    let old = aged("b", 1, "clusterIP: 10.96.0.1", "");
    let mut world = World::new(&(young + &old));
    let wanted = world.desired().services.into_iter().filter(|(_, port)| port.is_some());
    assert_eq!(wanted.map(|(name, _)| name.name.to_string()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn an_address_of_a_service_comes_before_a_node_port_on_it() {
    let port = |yaml: String| yaml.replace("{port: 80}", "{port: 30080, nodePort: 30080}");
    let of_node =
        aged("a", 2, "clusterIP: 10.96.0.1\nexternalIPs: [10.0.0.1]", "").replace("port: 80", "port: 30080");
    let node_port = port(aged("b", 1, "clusterIP: 10.96.0.2\ntype: NodePort", ""));
    let slices = slice("x", &endpoint(1, READY)).replace("service-name: s", "service-name: a")
        + &slice("y", &endpoint(2, READY)).replace("service-name: s", "service-name: b");
    let mut world = World::new(&(of_node + &node_port + &slices));
    world.addresses(&["10.0.0.1", "10.0.0.3"]);
    assert_eq!(
        errors(&mut world),
        [""; 0],
        "an address and a NodePort on all addresses of the node do not clash"
    );
    assert_eq!(world.tcp_from_all("10.0.0.1:30080"), ["[1]"; 3]);
    assert_eq!(world.tcp_from_all("10.0.0.3:30080"), ["[2]"; 3]);
}
