//! What the agent's HTTP servers ask the model for: health checks and the agent's own Node.

use lb_userspace::objects::name::Family;

use crate::world::{LAST, VIP, World, endpoint, service, slice};

#[test]
fn health_checks_count_ready_local_addresses_over_all_ports_of_the_slices() {
    let balanced =
        format!("{VIP}\ntype: LoadBalancer\nexternalTrafficPolicy: Local\nhealthCheckNodePort: 32000");
    let here = "nodeName: n1";
    let endpoints = endpoint(1, here)
        + &endpoint(2, "nodeName: n2")
        + &endpoint(3, &format!("{here}, {LAST}"))
        + &endpoint(4, here);
    let ports = "ports: [{port: 8080}, {name: metrics, port: 9090}]";
    let slices =
        slice("a", &endpoints).replace("ports: [{port: 8080}]", ports) + &slice("b", &endpoint(1, here));
    let mut world = World::new(&(service(&balanced) + &slices));
    world.desired();
    let counts = |world: &World| -> Vec<(String, u16, usize)> {
        let checks = world.model.health_checks().iter();
        checks
            .map(|((name, family), c)| (format!("{name}/{family}"), c.port.host(), c.local_endpoints))
            .collect()
    };
    assert_eq!(counts(&world), [("default/s/IPv4".to_owned(), 32000, 2)]);
    world.apply(&slice("a", &endpoint(3, &format!("{here}, {LAST}"))));
    world.desired();
    assert_eq!(counts(&world), [("default/s/IPv4".to_owned(), 32000, 1)]);
    for without in [
        balanced.replace("LoadBalancer\n", "NodePort\n"),
        balanced.replace("Policy: Local", "Policy: Cluster"),
        balanced.replace("32000", "0"),
    ] {
        world.apply(&service(&without));
        world.desired();
        assert_eq!(counts(&world), [], "{without}");
    }
}

#[test]
fn our_node_reports_its_addresses_and_whether_it_leaves() {
    let yaml = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec:\n  podCIDRs: [10.1.0.0/24, 'fd00:1::/64']\n  \
                taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]\nstatus:\n  addresses:\n  \
                - {type: ExternalIP, address: 192.0.2.1}\n  - {type: ExternalIP, address: '2001:db8::1'}\n  \
                - {type: Hostname, address: n1}\n  - {type: InternalIP, address: 10.0.0.1}\n";
    let world = World::new(&(yaml.to_owned() + "---\n" + &yaml.replace("name: n1", "name: n2")));
    let node = world.model.node().unwrap();
    let primary = Family::BOTH.map(|family| node.primary_ip(family).unwrap().to_string());
    assert_eq!(primary, ["10.0.0.1", "2001:db8::1"]);
    assert!(node.is_leaving && !node.is_being_deleted);
    assert_eq!(
        node.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.1.0.0/24", "fd00:1::/64"]
    );
}
