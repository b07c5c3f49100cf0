//! Session affinity as far as the model decides it: for whom it holds, for how long, and inside which set.

use std::collections::BTreeSet;

use lb_common::FrontendKind;

use crate::world::{LAST, READY, VIP, World, endpoint, ends, service, slice};

#[test]
fn affinity_has_the_default_of_the_api_and_its_bounds() {
    let seconds = |fields: &str| World::new(&service(&format!("{VIP}\n{fields}"))).port().affinity_timeout;
    let timeout = |n: i32| {
        format!("sessionAffinity: ClientIP\nsessionAffinityConfig: {{clientIP: {{timeoutSeconds: {n}}}}}")
    };
    assert_eq!(seconds("sessionAffinity: None"), 0);
    assert_eq!(seconds("sessionAffinity: ClientIP"), 10_800);
    assert_eq!(seconds(&timeout(86_400)), 86_400);
    assert_eq!(seconds(&timeout(0)), 10_800);
}

fn sticky(seconds: u32) -> String {
    format!(
        "{VIP}\nsessionAffinity: ClientIP\nsessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}"
    )
}

#[test]
fn all_addresses_of_a_port_share_one_affinity_and_ports_do_not() {
    let fields = sticky(5) + "\ntype: NodePort\nexternalIPs: [192.0.2.1]";
    let yaml = service(&fields)
        .replace("[{port: 80}]", "[{port: 80, name: a, nodePort: 30080}, {port: 81, name: b}]");
    let mut world = World::new(&yaml);
    let ports: Vec<_> = world.desired().services.into_values().flatten().collect();
    // Affinity is kept for each service port, so the addresses of one port share it.
    let kinds: Vec<BTreeSet<FrontendKind>> =
        ports.iter().map(|port| port.frontends.values().copied().collect()).collect();
    use FrontendKind::{Cluster, External, NodePort};
    assert_eq!(kinds, [BTreeSet::from([Cluster, NodePort, External]), BTreeSet::from([Cluster, External])]);
    assert!(ports.iter().all(|port| port.affinity_timeout == 5));
}

#[test]
fn switching_affinity_and_its_timeout_changes_the_record_and_nothing_else() {
    let endpoints = slice("a", &endpoint(1, READY));
    let mut world = World::new(&(service(VIP) + &endpoints));
    let mut before = world.port();
    for (fields, seconds) in [(sticky(5), 5), (sticky(9), 9), (VIP.to_owned(), 0)] {
        world.apply(&service(&fields));
        let after = world.port();
        assert_eq!(after.affinity_timeout, seconds);
        before.affinity_timeout = seconds;
        assert_eq!(after, before);
    }
}

#[test]
fn affinity_holds_inside_the_set_that_is_chosen() {
    // While another endpoint is ready, one that is no longer ready is in no set, so its client gets another one.
    let mut world =
        World::new(&(service(&sticky(5)) + &slice("a", &(endpoint(1, READY) + &endpoint(2, READY)))));
    assert_eq!(ends(&world.port().cluster), [1, 2]);
    world.apply(&slice("a", &(endpoint(1, LAST) + &endpoint(2, READY))));
    let port = world.port();
    assert_eq!(ends(&port.cluster), [2]);
    assert_eq!(ends(port.backends.keys()), [1, 2], "the endpoint keeps its connections");
}
