//! Lists count only when they are complete.

use lb_userspace::model::Model;
use lb_userspace::objects::event::{Change, Event};

use crate::world::{READY, VIP, World, endpoint, service, slice};

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

/// Services do not wait for ServiceCIDRs, because not every cluster has them and not every agent may read them.
#[test]
fn what_is_known_of_service_ranges_stays_until_service_cidrs_were_listed() {
    let mut model = Model::new("n1");
    for event in
        [Event::Service(Change::InitDone), Event::Slice(Change::InitDone), Event::Node(Change::InitDone)]
    {
        model.apply(event);
    }
    let first = model.desired();
    assert!(first.complete && first.service_ranges.is_none());
    model.apply(Event::ServiceCidr(Change::InitDone));
    assert_eq!(model.desired().service_ranges, Some(Default::default()));
    assert_eq!(model.desired().service_ranges, None);
}

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
    world.event(Event::Service(Change::Init));
    assert!(world.model.ready() && world.desired().is_empty());
    world.model.resync();
    let desired = world.desired();
    assert!(desired.complete && desired.services.len() == 1);
}
