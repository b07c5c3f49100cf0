//! The rules of Kubernetes that the model follows, one test each, from objects to what is desired.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its failure")]

mod affinity;
mod clients;
mod conflicts;
mod node_ports;
mod source_ranges;
mod surfaces;
mod verdicts;
mod which;
mod world;

use lb_common::{BackendState, ServiceRecord};
use lb_userspace::desired::DesiredPort;
use lb_userspace::event::{Change, Event, ObjectName};
use lb_userspace::model::Model;
use world::{DOWN, LAST, READY, VIP, World, endpoint, ends, keys, node, service, slice};

// Which objects count.

#[test]
fn nothing_is_desired_before_every_kind_was_listed() {
    let mut model = Model::new("n1");
    for event in [Event::Service(Change::Init), Event::Service(Change::InitDone)] {
        model.apply(event);
    }
    model.apply(Event::Slice(Change::InitDone));
    assert!(!model.ready() && model.desired().is_empty());
    model.apply(Event::Node(Change::InitDone));
    assert!(model.ready() && model.desired().complete && model.desired().is_empty());
}

#[test]
fn headless_external_name_and_addressless_services_are_skipped() {
    for fields in ["clusterIP: None", "type: ExternalName\nexternalName: example.org", "", "clusterIP: ''"] {
        let mut world = World::new(&service(fields));
        assert_eq!(keys(&mut world), [""; 0], "{fields}");
        assert_eq!(world.notices(), [""; 0], "{fields}");
    }
}

#[test]
fn a_service_of_another_proxy_comes_and_goes_with_its_label() {
    let mine = service(VIP);
    let theirs =
        mine.replace("{name: s}", "{name: s, labels: {service.kubernetes.io/service-proxy-name: x}}");
    let mut world = World::new(&theirs);
    assert_eq!(keys(&mut world), [""; 0]);
    world.apply(&mine);
    assert_eq!(keys(&mut world), ["10.96.0.1:80"]);
    world.apply(&theirs);
    let desired = world.desired();
    assert_eq!(desired.services.into_values().collect::<Vec<_>>(), [None]);
}

#[test]
fn a_service_labelled_headless_is_served_and_such_a_slice_is_not() {
    let label = "service.kubernetes.io/headless: ''";
    let labelled = service(VIP).replace("{name: s}", &format!("{{name: s, labels: {{{label}}}}}"));
    let slices = slice("a", &endpoint(1, READY)).replace("labels: {", &format!("labels: {{{label}, "))
        + &slice("b", &endpoint(2, READY));
    assert_eq!(ends(&World::new(&(labelled + &slices)).port().cluster), [2]);
}

#[test]
fn cluster_ips_count_by_family_and_without_families_only_cluster_ip() {
    let both = "clusterIP: 10.96.0.1\nclusterIPs: [10.96.0.1, 'fd00::1']";
    let mut with = World::new(&service(&format!("{both}\nipFamilies: [IPv4, IPv6]")));
    assert_eq!(keys(&mut with), ["10.96.0.1:80", "[fd00::1]:80"]);
    let mut without = World::new(&service(both));
    assert_eq!(keys(&mut without), ["10.96.0.1:80"]);
    let mut swapped = World::new(&service(&format!("{both}\nipFamilies: [IPv6, IPv4]")));
    assert_eq!(keys(&mut swapped), [""; 0]);
    assert!(swapped.notices()[0].contains("10.96.0.1 is not of family IPv6"), "{:?}", swapped.notices());
}

#[test]
fn what_cannot_be_read_is_named_with_its_object() {
    let yaml = service("clusterIP: 10.96.0.300").replace("name: s", "name: bad")
        + &service(VIP).replace("{port: 80}", "{port: 80, protocol: QUIC}")
        + &slice("a", "{addresses: [10.0.0.1x]}\n{addresses: ['fd00::1']}\n{addresses: ['::ffff:10.0.0.1']}")
            .replace("{port: 8080}", "{port: 70000}");
    let expected = [
        "error Service default/bad: clusterIP: \"10.96.0.300\" is not an IP address",
        "error Service default/s: port \"\": protocol \"QUIC\" is not supported",
        "error EndpointSlice default/a: endpoint: \"10.0.0.1x\" is not an IP address",
        "error EndpointSlice default/a: endpoint: \"::ffff:10.0.0.1\" is an IPv4-mapped IPv6 address; write it as IPv4",
        "error EndpointSlice default/a: endpoint: fd00::1 is not of addressType IPv4",
        "error EndpointSlice default/a: port \"\": number 70000 is not within 1-65535",
    ];
    assert_eq!(World::new(&yaml).notices(), expected);
}

#[test]
fn a_service_without_a_slice_and_a_slice_without_a_service_are_told_while_it_lasts() {
    let mut world = World::new(&service(VIP));
    assert_eq!(
        world.notices(),
        ["warning Service default/s: no EndpointSlice names this Service: it has no endpoint"]
    );
    assert_eq!(world.model.take_notices().len(), 1);
    world.apply(&service(VIP).replace("10.96.0.1", "10.96.0.2"));
    world.desired();
    assert_eq!(world.model.take_notices(), [], "said once");
    world.apply(&slice("a", ""));
    assert_eq!(world.notices(), [""; 0]);
    world.model.apply(Event::Service(Change::Delete(ObjectName::new("default", "s"))));
    assert_eq!(
        world.notices(),
        ["info Service default/s: EndpointSlices name this Service, but there is none"]
    );
}

#[test]
fn a_port_name_that_no_slice_has_is_told() {
    let yaml =
        service(VIP).replace("{port: 80}", "{port: 80, name: htpt}") + &slice("a", &endpoint(1, READY));
    let expected = ["warning Service default/s: no EndpointSlice has a TCP port named \"htpt\""];
    assert_eq!(World::new(&yaml).notices(), expected);
}

#[test]
fn the_oldest_service_has_an_address_and_the_next_takes_over() {
    let aged = |name: &str, second: u8| {
        let metadata = format!("{{name: {name}, creationTimestamp: '2026-01-01T00:00:0{second}Z'}}");
        service(VIP).replace("{name: s}", &metadata)
    };
    let owner = |world: &mut World| {
        let services = world.desired().services.into_iter();
        services.filter(|(_, port)| port.is_some()).map(|(name, _)| name.name.to_string()).collect::<Vec<_>>()
    };
    let mut world = World::new(&(aged("a", 2) + &aged("b", 1)));
    assert_eq!(owner(&mut world), ["b"]);
    let conflict = "error Service default/a: port \"\": 10.96.0.1:80/TCP belongs to port \"\" of Service default/b, \
                    which is older or first by name";
    assert!(world.notices().contains(&conflict.to_owned()), "{:?}", world.notices());
    world.model.apply(Event::Service(Change::Delete(ObjectName::new("default", "b"))));
    assert_eq!(owner(&mut world), ["a"]);
    assert!(!world.notices().contains(&conflict.to_owned()));
}

// Endpoints.

#[test]
fn nil_conditions_are_ready_and_serving_and_not_terminating() {
    let mut world =
        World::new(&(service(VIP) + &slice("a", &(endpoint(1, "conditions: {}") + &endpoint(2, "")))));
    assert_eq!(ends(&world.port().cluster), [1, 2]);
}

#[test]
fn only_the_first_address_counts() {
    let endpoints = "{addresses: [10.0.0.1, 10.0.0.2]}";
    assert_eq!(ends(&World::new(&(service(VIP) + &slice("a", endpoints))).port().cluster), [1]);
}

#[test]
fn the_copy_that_does_not_terminate_wins_in_either_order() {
    for (first, second) in [(LAST, READY), (READY, LAST)] {
        let yaml = service(VIP) + &slice("a", &endpoint(1, first)) + &slice("b", &endpoint(1, second));
        let port = World::new(&yaml).port();
        assert_eq!(ends(&port.cluster), [1]);
        assert!(port.backends.values().all(|share| share.state == BackendState::Active));
    }
}

#[test]
fn of_two_slices_the_copy_that_is_ready_wins_and_of_one_the_last() {
    for (first, second) in [(DOWN, READY), (READY, DOWN)] {
        let two = slice("a", &endpoint(1, first)) + &slice("b", &endpoint(1, second));
        assert_eq!(ends(&World::new(&(service(VIP) + &two)).port().cluster), [1]);
    }
    let one = |first, second| slice("a", &(endpoint(1, first) + &endpoint(1, second)));
    assert_eq!(ends(&World::new(&(service(VIP) + &one(DOWN, READY))).port().cluster), [1]);
    assert_eq!(ends(&World::new(&(service(VIP) + &one(READY, DOWN))).port().cluster), [0; 0]);
}

#[test]
fn a_slice_that_changes_its_service_takes_its_endpoints_along() {
    let yaml = service(VIP) + &slice("a", &endpoint(1, READY));
    let mut world = World::new(&yaml);
    assert_eq!(ends(&world.port().cluster), [1]);
    world.apply(&slice("a", &endpoint(1, READY)).replace("service-name: s", "service-name: t"));
    assert_eq!(ends(&world.port().cluster), [0; 0]);
}

#[test]
fn endpoints_of_a_family_serve_that_family_only() {
    let both = "clusterIPs: [10.96.0.1, 'fd00::1']\nipFamilies: [IPv4, IPv6]";
    let mut world = World::new(&(service(both) + &slice("a", &endpoint(1, READY))));
    let desired = world.desired();
    let sets: Vec<_> = desired.services.values().flatten().map(|port| ends(&port.cluster)).collect();
    assert_eq!(sets, [vec![1], vec![]]);
}

// Which endpoints serve.

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
    assert_eq!(flags("externalTrafficPolicy: Local"), has, "no client from outside is meant");
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
    assert_eq!(cluster(&hint("z2"), &hint("z2"), &node("z1")), [1, 2], "none is ours");
    assert_eq!(cluster(&hint("z1"), &hint("z2"), ""), [1, 2], "this node has no zone");

    assert_eq!(cluster(&hint("z1"), DOWN, &node("z1")), [1], "only ready ones are asked");
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
    assert_eq!(cluster(&hint("n2", "z1"), &hint("n3", "z2")), [1], "no node is ours: by zone");
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

// Lists.

#[test]
fn a_new_list_removes_what_is_not_in_it_and_touches_only_what_changed() {
    let other = service("clusterIP: 10.96.0.2").replace("name: s", "name: t");
    let mut world = World::new(&(service(VIP) + &other + &slice("a", &endpoint(1, READY))));
    world.desired();
    world.list(&(service(VIP) + &slice("a", &endpoint(1, READY))));
    let desired = world.desired();
    assert!(!desired.complete);
    let names: Vec<_> = desired.services.iter().map(|(name, port)| (&*name.name, port.is_some())).collect();
    assert_eq!(names, [("t", false)]);
}

#[test]
fn until_a_list_ends_the_old_objects_stay() {
    let mut world = World::new(&service(VIP));
    world.desired();
    world.model.apply(Event::Service(Change::Init));
    assert!(world.model.ready() && world.desired().is_empty());
    world.model.resync();
    let desired = world.desired();
    assert!(desired.complete && desired.services.len() == 1);
}
