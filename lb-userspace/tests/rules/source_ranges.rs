//! `loadBalancerSourceRanges` with its special cases.

use lb_userspace::desired::outcome::Client;

use crate::world::{READY, World, endpoint, service, slice};

const OTHERS: &str = "203.0.113.9";

/// A Service of both families; `ranges` is the value of the field.
fn world(ranges: &str) -> World {
    let fields = format!(
        "clusterIPs: [10.96.0.1, 'fd00::1']\nipFamilies: [IPv4, IPv6]\ntype: LoadBalancer\n\
         externalIPs: [192.0.2.2]\nports: [{{port: 80, nodePort: 30080}}]\nloadBalancerSourceRanges: {ranges}"
    );
    let status = "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {ip: '2001:db8::1'}]}}\n";
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus:\n  addresses: [{type: InternalIP, \
                address: 10.0.0.1}]\n";
    let service = service(&fields).replace("  ports: [{port: 80}]\n", "");
    let v6 = slice("b", "{addresses: ['fd00:1::1']}").replace("IPv4", "IPv6");
    let mut world = World::new(&(service + status + &slice("a", &endpoint(1, READY)) + &v6 + node));
    world.addresses(&["10.0.0.1"]);
    world
}

fn vip(world: &World, source: &str) -> String {
    world.tcp(Client::Outside, source, if source.contains(':') { "[2001:db8::1]:80" } else { "192.0.2.1:80" })
}

#[test]
fn ranges_hold_for_load_balancer_addresses_only_whoever_comes() {
    let world = world("[198.51.100.0/24]");
    assert_eq!(vip(&world, "198.51.100.7"), "[1]");
    assert_eq!(world.tcp_from_all("192.0.2.1:80"), ["drop"; 3]);
    for address in ["10.96.0.1:80", "192.0.2.2:80", "10.0.0.1:30080"] {
        assert_eq!(world.tcp_from_all(address), ["[1]"; 3], "{address}");
    }
}

#[test]
fn an_external_ip_that_is_also_the_load_balancers_is_restricted() {
    let mut world = world("[198.51.100.0/24]");
    let yaml = service(
        "clusterIP: 10.96.0.1\ntype: LoadBalancer\nexternalIPs: [192.0.2.1]\nloadBalancerSourceRanges: [198.51.100.0/24]",
    );
    world.apply(&(yaml + "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}\n"));
    assert_eq!(vip(&world, OTHERS), "drop");
}

#[test]
fn ranges_of_one_family_leave_the_other_open_and_say_so() {
    let mut world = world("[198.51.100.0/24]");
    assert_eq!(vip(&world, "2001:db8::9"), "[1]");
    let open = "warning Service default/s: loadBalancerSourceRanges has no IPv6 range: its IPv6 load balancer \
                addresses are open to all";
    assert!(world.notices().contains(&open.to_owned()), "{:?}", world.notices());
}

#[test]
fn one_range_of_everything_lifts_the_restriction_of_its_family() {
    let world = world("[198.51.100.0/24, 0.0.0.0/0, '2001:db8:1::/48']");
    assert_eq!((vip(&world, OTHERS), vip(&world, "2001:db8::9")), ("[1]".to_owned(), "drop".to_owned()));
}

#[test]
fn ranges_that_cannot_be_read_do_not_count_and_are_reported() {
    let mut world = world("[' 198.51.100.7/24 ', 198.51.100.300/24]");
    assert_eq!(vip(&world, "198.51.100.200"), "[1]", "spaces and the bits after the prefix are ignored");
    assert_eq!(vip(&world, OTHERS), "drop");
    let told = "error Service default/s: loadBalancerSourceRanges: \"198.51.100.300/24\" is not a prefix \
                (ADDRESS/LENGTH): ignored";
    assert!(world.notices().contains(&told.to_owned()), "{:?}", world.notices());
    assert_eq!(vip(&self::world("[nonsense]"), OTHERS), "[1]", "the same as in kube-proxy");
}

#[test]
fn a_node_within_the_ranges_may_come_from_the_load_balancer_address_itself() {
    let within = world("[10.0.0.0/24]");
    assert_eq!(within.tcp(Client::Host, "192.0.2.1", "192.0.2.1:80"), "[1]");
    let without = world("[10.0.1.0/24]");
    assert_eq!(without.tcp(Client::Host, "192.0.2.1", "192.0.2.1:80"), "drop");
    // If the Node has no address of the family, the loopback address stands for it.
    let loopback = world("['::1/128']");
    assert_eq!(loopback.tcp(Client::Host, "2001:db8::1", "[2001:db8::1]:80"), "[1]");
    assert_eq!(loopback.tcp(Client::Host, "2001:db8::2", "[2001:db8::1]:80"), "drop");
}

#[test]
fn a_new_node_address_decides_the_ranges_anew() {
    let mut world = world("[10.0.0.0/24]");
    world.desired();
    world.apply("apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus:\n  addresses: [{type: InternalIP, address: 10.9.0.1}]\n");
    let desired = world.desired();
    let v4 = desired.services.values().flatten().next().unwrap();
    assert_eq!(v4.source_ranges.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/24"]);
}
