//! Which entries of slices are endpoints, and of which Service.

use lb_common::BackendState;

use crate::world::{DOWN, LAST, READY, VIP, World, endpoint, ends, service, slice};

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

/// When a port gets another name, Service and slices are written one after the other: endpoints with connections keep
/// them.
#[test]
fn a_port_that_no_slice_names_keeps_the_endpoints_under_names_that_no_port_has() {
    let slice = slice("a", &endpoint(1, READY));
    let renamed = slice.replace("[{port: 8080}]", "[{name: other, port: 8080}]");
    assert_ne!(slice, renamed);
    let mut world = World::new(&(service(VIP) + &renamed));
    let port = world.port();
    assert_eq!((ends(&port.cluster), port.backends.len()), (vec![], 1));
    assert!(port.backends.values().all(|share| share.state == BackendState::Terminating));
    world.apply(&slice);
    assert_eq!(ends(&world.port().cluster), [1]);
}

#[test]
fn endpoints_of_a_family_serve_that_family_only() {
    let both = "clusterIPs: [10.96.0.1, 'fd00::1']\nipFamilies: [IPv4, IPv6]";
    let mut world = World::new(&(service(both) + &slice("a", &endpoint(1, READY))));
    let desired = world.desired();
    let sets: Vec<_> = desired.services.values().flatten().map(|port| ends(&port.cluster)).collect();
    assert_eq!(sets, [vec![1], vec![]]);
}
