//! The verdicts if there is no endpoint, an endpoint only on another node, or an unknown address.

use lb_userspace::model::Rules;

use crate::world::{DOWN, READY, VIP, World, endpoint, service, slice};

const NODE: &str = "10.0.0.1";

fn world(fields: &str, endpoints: &str) -> World {
    let fields = format!(
        "{VIP}\ntype: LoadBalancer\nexternalIPs: [192.0.2.2]\nports: [{{port: 80, nodePort: 30080}}]\n{fields}"
    );
    let status = "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}\n";
    let service = service(&fields).replace("  ports: [{port: 80}]\n", "");
    let mut world = World::new(&(service + status + &slice("a", endpoints)));
    world.addresses(&[NODE]);
    world
}

const CLUSTER_IP: &str = "10.96.0.1:80";
const EXTERNAL: [&str; 3] = ["192.0.2.1:80", "192.0.2.2:80", "10.0.0.1:30080"];

#[test]
fn no_usable_endpoint_anywhere_is_a_reject_for_every_kind_of_destination() {
    for policies in ["", "internalTrafficPolicy: Local", "externalTrafficPolicy: Local"] {
        for endpoints in ["", &endpoint(1, &format!("{DOWN}, nodeName: n1"))] {
            let world = world(policies, endpoints);
            for address in EXTERNAL.into_iter().chain([CLUSTER_IP]) {
                assert_eq!(world.tcp_from_all(address), ["reject"; 3], "{address} {policies}");
            }
        }
    }
}

#[test]
fn internal_policy_local_with_endpoints_elsewhere_only_is_a_drop() {
    let world = world("internalTrafficPolicy: Local", &endpoint(1, &format!("{READY}, nodeName: n2")));
    assert_eq!(world.tcp_from_all(CLUSTER_IP), ["drop"; 3]);
}

#[test]
fn external_policy_local_with_endpoints_elsewhere_only_is_a_drop_from_outside_and_served_from_inside() {
    let world = world("externalTrafficPolicy: Local", &endpoint(1, &format!("{READY}, nodeName: n2")));
    for address in EXTERNAL {
        assert_eq!(world.tcp_from_all(address), ["[1]", "[1]", "drop"], "{address}");
    }
}

#[test]
fn a_load_balancer_address_with_a_source_outside_the_ranges_is_a_drop_also_without_endpoints() {
    for endpoints in ["", &endpoint(1, READY)] {
        let world = world("loadBalancerSourceRanges: [198.51.100.0/24]", endpoints);
        assert_eq!(world.tcp_from_all("192.0.2.1:80"), ["drop"; 3]);
    }
}

#[test]
fn a_port_of_a_cluster_ip_that_no_service_has_is_a_reject() {
    let world = world("", &endpoint(1, READY));
    assert_eq!(world.tcp_from_all("10.96.0.1:81"), ["reject"; 3]);
    assert_eq!(world.tcp_from_all("10.96.0.1:30080"), ["reject"; 3], "NodePorts do not answer on ClusterIPs");
}

#[test]
fn a_port_of_a_load_balancer_address_that_no_service_has_is_left_alone() {
    let world = world("", &endpoint(1, READY));
    for address in ["192.0.2.1:81", "192.0.2.2:81", "10.0.0.1:30081"] {
        assert_eq!(world.tcp_from_all(address), ["nothing"; 3], "{address}");
    }
}

const RANGE: &str = "---\napiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\nspec: {cidrs: [10.96.0.0/16]}\n";

#[test]
fn an_address_of_the_service_range_that_no_service_has_is_a_drop() {
    let mut world = world("", &endpoint(1, READY));
    assert_eq!(world.tcp_from_all("10.96.7.7:80"), ["nothing"; 3], "no range is known");
    world.apply(RANGE);
    assert_eq!(world.tcp_from_all("10.96.7.7:80"), ["drop"; 3]);
    assert_eq!(world.tcp_from_all("10.97.7.7:80"), ["nothing"; 3]);
    assert_eq!(world.tcp_from_all("10.96.0.1:81"), ["reject"; 3], "a Service has the address");
}

/// Kubernetes has no ServiceCIDRs before 1.33, and folders of manifests seldom contain one.
#[test]
fn an_address_of_a_range_of_the_command_line_that_no_service_has_is_a_drop() {
    let service_cidrs = "10.96.0.0/16,fd00:10:96::/112".parse().unwrap();
    let rules = Rules { service_cidrs, ..Rules::default() };
    let mut world = World::with(rules, &(service(VIP) + &slice("a", &endpoint(1, READY))));
    assert_eq!(world.tcp_from_all("10.96.7.7:80"), ["drop"; 3]);
    assert_eq!(world.tcp_from_all("[fd00:10:96::7]:80"), ["drop"; 3]);
    assert_eq!(world.tcp_from_all("10.97.7.7:80"), ["nothing"; 3]);
    assert_eq!(world.tcp_from_all("10.96.0.1:80"), ["[1]"; 3]);
    // A ServiceCIDR adds another range.
    world.apply(&RANGE.replace("10.96.0.0/16", "10.97.0.0/16"));
    assert_eq!(world.tcp_from_all("10.97.7.7:80"), ["drop"; 3]);
    assert_eq!(world.tcp_from_all("10.96.7.7:80"), ["drop"; 3]);
    let refused = "10.0.0.0/7".parse::<lb_userspace::model::ServiceCidrs>().unwrap_err();
    assert!(refused.contains("10.0.0.0/7 is too wide"), "{refused}");
}

#[test]
fn an_address_that_another_proxy_serves_is_left_alone() {
    let mut world = world("", &endpoint(1, READY));
    world.apply(RANGE);
    let other = service("clusterIP: 10.96.7.7")
        .replace("{name: s}", "{name: other, labels: {service.kubernetes.io/service-proxy-name: x}}");
    world.apply(&other);
    assert_eq!(world.tcp_from_all("10.96.7.7:80"), ["nothing"; 3]);
    let ranges = world.desired().service_ranges.unwrap();
    assert_eq!((ranges.cidrs.len(), ranges.others.len()), (1, 1));
    assert_eq!(world.desired().service_ranges, None, "nothing has changed since");
}
