//! Which endpoints serve: readiness, termination, locality, topology.

use lb_common::{BackendState, ServiceRecord};
use lb_userspace::desired::DesiredPort;

use crate::world::{DOWN, LAST, READY, VIP, World, endpoint, ends, node, service, slice};

#[test]
fn terminating_endpoints_serve_only_when_none_is_ready() {
    let mixed = slice("a", &(endpoint(1, READY) + &endpoint(2, LAST) + &endpoint(3, DOWN)));
    let port = World::new(&(service(VIP) + &mixed)).port();
    assert_eq!(ends(&port.cluster), [1]);
    let last = slice("a", &(endpoint(2, LAST) + &endpoint(3, DOWN)));
    let port = World::new(&(service(VIP) + &last)).port();
    assert_eq!(ends(&port.cluster), [2]);
    assert_eq!(port.flags, ServiceRecord::HAS_ENDPOINTS);
    let none = World::new(&(service(VIP) + &slice("a", &endpoint(3, DOWN)))).port();
    assert_eq!((ends(&none.cluster), none.flags), (vec![], 0));
}

#[test]
fn connections_stay_with_an_endpoint_in_the_slices_and_udp_only_while_it_serves() {
    let endpoints = slice("a", &(endpoint(1, READY) + &endpoint(2, LAST) + &endpoint(3, DOWN)));
    let states = |port: DesiredPort| -> Vec<(u8, BackendState)> {
        port.backends.iter().map(|(endpoint, share)| (endpoint.addr.octets[15], share.state)).collect()
    };
    let (active, draining) = (BackendState::Active, BackendState::Terminating);
    let tcp = World::new(&(service(VIP) + &endpoints)).port();
    assert_eq!(states(tcp), [(1, active), (2, draining), (3, draining)]);
    let udp = (service(VIP) + &endpoints)
        .replace("{port: 80}", "{port: 80, protocol: UDP}")
        .replace("{port: 8080}", "{port: 8080, protocol: UDP}");
    assert_eq!(states(World::new(&udp).port()), [(1, active), (2, draining)]);
}

#[test]
fn the_local_set_is_for_local_policies_and_of_this_node() {
    let endpoints =
        slice("a", &(endpoint(1, "nodeName: n1") + &endpoint(2, "nodeName: n2") + &endpoint(3, "")));
    let sets = |fields: &str| {
        let port = World::new(&(service(&format!("{VIP}\n{fields}")) + &endpoints)).port();
        (ends(&port.cluster), ends(&port.local))
    };
    let external = "type: NodePort\nexternalIPs: [192.0.2.1]";
    assert_eq!(sets(""), (vec![1, 2, 3], vec![]));
    assert_eq!(sets("internalTrafficPolicy: Local"), (vec![], vec![1]));
    assert_eq!(sets(&format!("internalTrafficPolicy: Local\n{external}")), (vec![1, 2, 3], vec![1]));
    assert_eq!(sets("externalTrafficPolicy: Local"), (vec![1, 2, 3], vec![]));
    assert_eq!(sets(&format!("externalTrafficPolicy: Local\n{external}")), (vec![1, 2, 3], vec![1]));
}

#[test]
fn a_load_balancer_address_makes_a_port_external_unless_the_balancer_keeps_it() {
    let endpoints = slice("a", &endpoint(1, "nodeName: n1"));
    let local = |ingress: &str| {
        let status = format!("status: {{loadBalancer: {{ingress: [{ingress}]}}}}\n");
        let fields = format!("{VIP}\ntype: LoadBalancer\nexternalTrafficPolicy: Local");
        ends(&World::new(&(service(&fields) + &status + &endpoints)).port().local)
    };
    assert_eq!(local("{ip: 192.0.2.1}"), [1]);
    assert_eq!(local("{ip: 192.0.2.1, ipMode: VIP}"), [1]);
    assert_eq!(local("{ip: 192.0.2.1, ipMode: Proxy}"), [0; 0]);
    assert_eq!(local("{hostname: lb.example.org}"), [0; 0]);
    assert_eq!(local("{ip: '2001:db8::1'}"), [0; 0]);
}

#[test]
fn policies_and_endpoints_are_in_the_flags() {
    let flags = |fields: &str| {
        World::new(&(service(&format!("{VIP}\n{fields}")) + &slice("a", &endpoint(1, READY)))).port().flags
    };
    let has = ServiceRecord::HAS_ENDPOINTS;
    assert_eq!(flags(""), has);
    assert_eq!(flags("internalTrafficPolicy: Local"), has | ServiceRecord::INTERNAL_LOCAL);
    assert_eq!(flags("externalTrafficPolicy: Local"), has, "no address is for outside clients");
    for external in ["type: NodePort", "type: LoadBalancer", "externalIPs: [192.0.2.1]"] {
        let fields = format!("externalTrafficPolicy: Local\n{external}");
        assert_eq!(flags(&fields), has | ServiceRecord::EXTERNAL_LOCAL, "{external}");
    }
}

#[test]
fn zone_hints_count_only_when_every_ready_endpoint_has_one_and_one_is_ours() {
    let hint = |zone: &str| format!("hints: {{forZones: [{{name: {zone}}}]}}");
    let cluster = |a: &str, b: &str, node: &str| {
        let endpoints = slice("a", &(endpoint(1, a) + &endpoint(2, b)));
        ends(&World::new(&(service(VIP) + &endpoints + node)).port().cluster)
    };
    assert_eq!(cluster(&hint("z1"), &hint("z2"), &node("z1")), [1]);
    assert_eq!(cluster(&hint("z1"), "", &node("z1")), [1, 2], "a hint is missing");
    assert_eq!(cluster(&hint("z2"), &hint("z2"), &node("z1")), [1, 2], "no hint names our zone");
    assert_eq!(cluster(&hint("z1"), &hint("z2"), ""), [1, 2], "this node has no zone");

    assert_eq!(cluster(&hint("z1"), DOWN, &node("z1")), [1], "only ready endpoints need a hint");
}

#[test]
fn node_hints_come_before_zone_hints() {
    let hint = |node: &str, zone: &str| {
        format!("hints: {{forNodes: [{{name: {node}}}], forZones: [{{name: {zone}}}]}}")
    };
    let cluster = |a: &str, b: &str| {
        let endpoints = slice("a", &(endpoint(1, a) + &endpoint(2, b)));
        ends(&World::new(&(service(VIP) + &endpoints + &node("z1"))).port().cluster)
    };
    assert_eq!(cluster(&hint("n1", "z1"), &hint("n2", "z1")), [1]);
    assert_eq!(cluster(&hint("n2", "z1"), &hint("n3", "z2")), [1], "no node hint is ours: the zone decides");
}

#[test]
fn hints_narrow_neither_the_local_set_nor_the_last_resort() {
    let hint = "nodeName: n1, hints: {forZones: [{name: z2}]}";
    let other = "nodeName: n2, hints: {forZones: [{name: z1}]}";
    let endpoints = slice("a", &(endpoint(1, hint) + &endpoint(2, other)));
    let fields = format!("{VIP}\ninternalTrafficPolicy: Local\nexternalIPs: [192.0.2.1]");
    let port = World::new(&(service(&fields) + &endpoints + &node("z1"))).port();
    assert_eq!((ends(&port.cluster), ends(&port.local)), (vec![2], vec![1]));
    let last = slice("a", &endpoint(1, &format!("{LAST}, {hint}")));
    assert_eq!(ends(&World::new(&(service(VIP) + &last + &node("z1"))).port().cluster), [1]);
}

#[test]
fn a_change_of_zone_decides_every_service_anew() {
    let hint = |zone: &str| format!("hints: {{forZones: [{{name: {zone}}}]}}");
    let endpoints = slice("a", &(endpoint(1, &hint("z1")) + &endpoint(2, &hint("z2"))));
    let mut world = World::new(&(service(VIP) + &endpoints + &node("z1")));
    assert_eq!(ends(&world.port().cluster), [1]);
    world.apply(&node("z2"));
    assert_eq!(ends(&world.port().cluster), [2]);
}
