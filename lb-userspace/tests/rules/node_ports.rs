//! `--nodeport-addresses`, and NodePorts on loopback.

use std::collections::BTreeSet;

use lb_common::FrontendKind;
use lb_userspace::model::Rules;
use lb_userspace::objects::name::Family;

use crate::world::{READY, VIP, World, endpoint, service, slice};

const ADDRESSES: [&str; 7] =
    ["127.0.0.1", "10.0.0.1", "10.0.0.2", "192.168.7.1", "::1", "2001:db8::1", "fe80::1"];

fn world(list: &str, node: &str) -> World {
    let rules = Rules { node_port_addresses: list.parse().unwrap(), ..Rules::default() };
    let node =
        format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: n1}}\nstatus:\n  addresses: [{node}]\n");
    let mut world = World::with(rules, &node);
    world.addresses(&ADDRESSES);
    world
}

/// The addresses on which NodePorts answer; 127.0.0.1 and ::1 stand for loopback.
fn selected(list: &str, node: &str) -> Vec<String> {
    let addresses = world(list, node).desired().node_addresses.unwrap();
    let v6_last = |a: &lb_common::Addr| (!a.is_v4(), *a);
    let mut addresses: Vec<_> = addresses.into_iter().collect();
    addresses.sort_by_key(v6_last);
    addresses.iter().map(ToString::to_string).collect()
}

const INTERNAL: &str = "{type: ExternalIP, address: 10.0.0.1}, {type: InternalIP, address: 10.0.0.2}";

#[test]
fn by_default_every_address_counts_and_loopback_too() {
    let all = ["10.0.0.1", "10.0.0.2", "127.0.0.1", "192.168.7.1", "::1", "2001:db8::1", "fe80::1"];
    for list in ["", "all", "0.0.0.0/0,::/0"] {
        assert_eq!(selected(list, ""), all, "{list}");
    }
}

#[test]
fn primary_is_the_first_internal_ip_else_the_first_external_ip_and_never_loopback() {
    let only_v4 = ["10.0.0.2", "::1", "2001:db8::1", "fe80::1"];
    assert_eq!(
        selected("primary", INTERNAL),
        only_v4,
        "in a family without an address of the Node, all addresses count"
    );
    let external = "{type: ExternalIP, address: 10.0.0.1}, {type: ExternalIP, address: '2001:db8::1'}";
    assert_eq!(selected("primary", external), ["10.0.0.1", "2001:db8::1"]);
    let elsewhere = "{type: InternalIP, address: 10.9.9.9}, {type: InternalIP, address: '2001:db8::1'}";
    assert_eq!(selected("primary", elsewhere), ["2001:db8::1"], "no interface has the IPv4 address");
}

#[test]
fn prefixes_count_by_family_and_in_a_family_without_one_all_addresses_count() {
    assert_eq!(selected("10.0.0.0/24,2001:db8::/64", ""), ["10.0.0.1", "10.0.0.2", "2001:db8::1"]);
    assert_eq!(selected("192.168.0.0/16", ""), ["192.168.7.1", "::1", "2001:db8::1", "fe80::1"]);
    assert_eq!(selected("10.9.0.0/16,::/0", ""), ["::1", "2001:db8::1", "fe80::1"]);
}

#[test]
fn prefixes_with_loopback_in_them_serve_loopback() {
    assert_eq!(selected("127.0.0.0/8,::1/128", ""), ["127.0.0.1", "::1"]);
    assert_eq!(selected("127.3.0.0/16,2001:db8::/64", ""), ["127.0.0.1", "2001:db8::1"]);
}

#[test]
fn words_can_be_combined() {
    assert_eq!(selected("localhost", INTERNAL), ["127.0.0.1", "::1"]);
    assert_eq!(selected("primary,localhost", INTERNAL), ["10.0.0.2", "127.0.0.1", "::1"]);
    assert_eq!(selected("primary,192.168.7.0/24,::1/128", INTERNAL), ["10.0.0.2", "192.168.7.1", "::1"]);
    let error = "primary,10.0.0.1".parse::<lb_userspace::model::NodePortAddresses>().unwrap_err();
    assert_eq!(error, "\"10.0.0.1\" is not a prefix (ADDRESS/LENGTH), nor one of all, primary, localhost");
}

#[test]
fn addresses_that_come_and_go_touch_no_service() {
    let mut world = world("all", INTERNAL);
    world.apply(&(service(&format!("{VIP}\ntype: NodePort")) + &slice("a", &endpoint(1, READY))));
    world.desired();
    world.addresses(&["127.0.0.1", "10.0.0.1"]);
    let desired = world.desired();
    assert_eq!(desired.node_addresses.map(|addresses| addresses.len()), Some(3));
    assert!(desired.services.is_empty() && !desired.complete);
    world.addresses(&["127.0.0.1", "10.0.0.1"]);
    assert!(world.desired().is_empty(), "nothing changed");
}

#[test]
fn a_new_primary_address_is_followed() {
    let mut world = world("primary", INTERNAL);
    world.desired();
    world.apply("apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus:\n  addresses: [{type: InternalIP, address: 10.0.0.1}]\n");
    let addresses = world.desired().node_addresses.unwrap();
    assert!(addresses.contains(&crate::world::address("10.0.0.1")));
    assert!(!addresses.contains(&crate::world::address("10.0.0.2")));
}

#[test]
fn a_node_port_stands_once_for_each_family_under_the_unspecified_address() {
    let fields = "clusterIPs: [10.96.0.1, 'fd00::1']\nipFamilies: [IPv4, IPv6]\ntype: NodePort";
    let yaml = service(fields).replace("{port: 80}", "{port: 80, nodePort: 30080}");
    let desired = World::new(&yaml).desired();
    let keys: BTreeSet<_> = desired
        .services
        .values()
        .flatten()
        .flat_map(|port| &port.frontends)
        .filter(|(_, kind)| **kind == FrontendKind::NodePort)
        .map(|(key, _)| (key.addr, key.port.host()))
        .collect();
    assert_eq!(keys, Family::BOTH.map(|family| (family.unspecified(), 30080)).into_iter().collect());
}

#[test]
fn the_same_number_is_two_node_ports_for_tcp_and_udp() {
    let tcp = service(&format!("{VIP}\ntype: NodePort")).replace("{port: 80}", "{port: 80, nodePort: 30053}");
    let udp = tcp
        .replace("name: s", "name: t")
        .replace("10.96.0.1", "10.96.0.2")
        .replace("nodePort: 30053", "nodePort: 30053, protocol: UDP");
    let mut world = World::new(&(tcp + &udp));
    let ports = world.desired().services.into_values().flatten().filter(|port| port.frontends.len() == 2);
    assert_eq!(ports.count(), 2);
}
