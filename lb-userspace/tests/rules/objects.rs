//! Which objects count.

use lb_userspace::objects::event::{Change, Event};
use lb_userspace::objects::name::ObjectName;

use crate::world::{READY, VIP, World, endpoint, ends, keys, service, slice};

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
fn a_service_without_a_slice_and_a_slice_without_a_service_are_reported_while_it_lasts() {
    let mut world = World::new(&service(VIP));
    assert_eq!(
        world.notices(),
        ["warning Service default/s: no EndpointSlice names this Service: it has no endpoint"]
    );
    assert_eq!(world.model.take_notices().len(), 1);
    world.apply(&service(VIP).replace("10.96.0.1", "10.96.0.2"));
    world.desired();
    assert_eq!(world.model.take_notices(), [], "the notice is given once");
    world.apply(&slice("a", ""));
    assert_eq!(world.notices(), [""; 0]);
    world.event(Event::Service(Change::Delete(ObjectName::new("default", "s"))));
    assert_eq!(
        world.notices(),
        ["info Service default/s: EndpointSlices name this Service, but it does not exist"]
    );
}

#[test]
fn a_port_name_that_no_slice_has_is_reported() {
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
    world.event(Event::Service(Change::Delete(ObjectName::new("default", "b"))));
    assert_eq!(owner(&mut world), ["a"]);
    assert!(!world.notices().contains(&conflict.to_owned()));
}
