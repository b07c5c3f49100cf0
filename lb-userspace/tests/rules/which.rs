//! Which Services and addresses count, beyond the basic rules.

use lb_userspace::model::Rules;

use crate::world::{READY, VIP, World, endpoint, ends, keys, service, slice};

#[test]
fn our_own_proxy_name_selects_the_services_that_have_it_and_no_others() {
    let label = |name: &str| {
        service(VIP).replace(
            "{name: s}",
            &format!("{{name: s, labels: {{service.kubernetes.io/service-proxy-name: {name}}}}}"),
        )
    };
    let rules = || Rules { service_proxy_name: Some("ours".into()), ..Rules::default() };
    assert_eq!(keys(&mut World::with(rules(), &label("ours"))), ["10.96.0.1:80"]);
    assert_eq!(keys(&mut World::with(rules(), &label("theirs"))), [""; 0]);
    let mut world = World::with(rules(), &service(VIP));
    assert_eq!(keys(&mut world), [""; 0]);
    world.apply(&label("ours"));
    assert_eq!(keys(&mut world), ["10.96.0.1:80"]);
    world.apply(&service(VIP));
    assert_eq!(world.desired().services.into_values().collect::<Vec<_>>(), [None]);
}

#[test]
fn nothing_is_reported_about_a_service_of_another_proxy() {
    let broken = service("clusterIP: 10.96.0.300\nexternalIPs: [nonsense]");
    let label = "{name: s, labels: {service.kubernetes.io/service-proxy-name: x}}";
    assert_eq!(World::new(&broken.replace("{name: s}", label)).notices(), [""; 0]);
    assert!(!World::new(&broken).notices().is_empty());
}

#[test]
fn a_change_of_type_comes_and_goes_at_run_time() {
    let mut world = World::new(&service("type: ExternalName\nexternalName: example.org"));
    assert_eq!(keys(&mut world), [""; 0]);
    let node_port =
        service(&format!("{VIP}\ntype: NodePort")).replace("{port: 80}", "{port: 80, nodePort: 30080}");
    world.apply(&node_port);
    assert_eq!(keys(&mut world), ["0.0.0.0:30080", "10.96.0.1:80"]);
    world.apply(&service(VIP));
    assert_eq!(keys(&mut world), ["10.96.0.1:80"]);
    world.apply(&service("clusterIP: None"));
    assert_eq!(keys(&mut world), [""; 0]);
}

#[test]
fn external_ips_outside_the_allow_list_are_ignored_and_named() {
    let fields = format!("{VIP}\nexternalIPs: [192.0.2.1, 198.51.100.1]");
    let with = |cidrs: &str| {
        let rules = Rules { external_ip_cidrs: cidrs.parse().unwrap(), ..Rules::default() };
        World::with(rules, &service(&fields))
    };
    assert_eq!(keys(&mut with("any")), ["10.96.0.1:80", "192.0.2.1:80", "198.51.100.1:80"]);
    let mut some = with("192.0.2.0/24,2001:db8::/32");
    assert_eq!(keys(&mut some), ["10.96.0.1:80", "192.0.2.1:80"]);
    let told = "warning Service default/s: externalIPs: 198.51.100.1 is not within --external-ip-cidrs \
                192.0.2.0/24,2001:db8::/32: ignored";
    assert!(some.notices().contains(&told.to_owned()), "{:?}", some.notices());
    assert_eq!(keys(&mut with("none")), ["10.96.0.1:80"]);
}

#[test]
fn an_external_ip_that_is_ignored_makes_nothing_external() {
    let fields = format!("{VIP}\nexternalIPs: [192.0.2.1]\ninternalTrafficPolicy: Local");
    let yaml = service(&fields) + &slice("a", &endpoint(1, "nodeName: n2"));
    assert_eq!(ends(&World::new(&yaml).port().cluster), [1]);
    let none = Rules { external_ip_cidrs: "none".parse().unwrap(), ..Rules::default() };
    assert_eq!(ends(&World::with(none, &yaml).port().cluster), [0; 0]);
}

#[test]
fn addresses_of_a_family_without_a_cluster_ip_are_left_out() {
    let mut world = World::new(&service(&format!("{VIP}\nexternalIPs: ['2001:db8::1']")));
    assert_eq!(keys(&mut world), ["10.96.0.1:80"]);
    let told =
        "info Service default/s: externalIPs: 2001:db8::1 is ignored because there is no IPv6 ClusterIP";
    assert!(world.notices().contains(&told.to_owned()), "{:?}", world.notices());
}

#[test]
fn ports_of_a_service_are_independent_and_tcp_and_udp_share_a_number() {
    let ports = "[{port: 53, name: udp, protocol: UDP}, {port: 53, name: tcp}, {port: 80, name: web}]";
    let slices = slice("a", &endpoint(1, READY)).replace(
        "[{port: 8080}]",
        "[{port: 5353, name: udp, protocol: UDP}, {port: 5354, name: tcp}, {port: 8080, name: web}]",
    );
    let yaml = service(VIP).replace("[{port: 80}]", ports) + &slices;
    let desired = World::new(&yaml).desired();
    let ports: Vec<_> = desired
        .services
        .iter()
        .map(|(name, port)| {
            let numbers = port.as_ref().unwrap().cluster.iter().map(|e| e.port.host());
            (&*name.port, numbers.collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(ports, [("tcp", vec![5354]), ("udp", vec![5353]), ("web", vec![8080])]);
}

#[test]
fn a_named_target_port_may_differ_from_pod_to_pod() {
    let slices = slice("a", &endpoint(1, READY))
        + &slice("b", &endpoint(2, READY)).replace("[{port: 8080}]", "[{port: 9090}]");
    let cluster = World::new(&(service(VIP) + &slices)).port().cluster;
    let endpoints: Vec<_> = cluster.iter().map(|e| (e.addr.octets[15], e.port.host())).collect();
    assert_eq!(endpoints, [(1, 8080), (2, 9090)]);
}

#[test]
fn endpoints_of_a_service_without_selector_may_be_anywhere() {
    let slices = slice("manual", "{addresses: [10.0.0.1]}\n{addresses: [198.51.100.7]}");
    assert_eq!(ends(&World::new(&(service(VIP) + &slices)).port().cluster), [1, 7]);
}

#[test]
fn leading_zeros_are_decimal_as_in_old_objects() {
    assert_eq!(keys(&mut World::new(&service("clusterIP: 010.096.000.001"))), ["10.96.0.1:80"]);
}
