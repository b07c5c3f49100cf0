//! Where packets go: frontends of every kind, policies, source ranges, affinity.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use aya::maps::{HashMap, Map, MapData};
use lb_common::{
    Affinity, AffinityKey, Counter, FrontendKind, Prefix, Proto, ServiceRecord, names, node_bit,
};
use lb_tests::datapath::{CONTINUE, DROP, Datapath, REDIRECT, also_on, endpoint, service};
use lb_tests::packet::{Packet, assert_same, tcp, udp};
use lb_userspace::desired::DesiredPort;
use lb_userspace::objects::name::ServicePortName;

use crate::{Ends, V4, V6, each_family};

/// Addresses of the node and outside the cluster, in the family of the ends.
struct Outer {
    node: &'static str,
    node_port: &'static str,
    balancer: &'static str,
    external: &'static str,
}

fn outer(ends: &Ends) -> Outer {
    if ends.client == V4.client {
        Outer {
            node: "192.168.77.1",
            node_port: "192.168.77.1:30080",
            balancer: "203.0.113.10:80",
            external: "198.51.100.10:80",
        }
    } else {
        Outer {
            node: "fd77::1",
            node_port: "[fd77::1]:30080",
            balancer: "[2001:db8:1::10]:80",
            external: "[2001:db8:2::10]:80",
        }
    }
}

/// A service with a frontend of every kind.
fn everywhere(proto: Proto, ends: &Ends, backends: &[&str]) -> (ServicePortName, DesiredPort) {
    let outer = outer(ends);
    let service = service(proto, ends.vip, backends);
    let service = also_on(service, FrontendKind::NodePort, outer.node_port);
    let service = also_on(service, FrontendKind::LoadBalancer, outer.balancer);
    also_on(service, FrontendKind::External, outer.external)
}

fn first(proto: Proto, client: impl Into<lb_tests::packet::Place>, to: &str) -> Packet {
    match proto {
        Proto::Udp => udp(client, to).payload("x"),
        _ => tcp(client, to).syn(),
    }
}

#[test]
fn frontends_of_every_kind_lead_to_the_backend_and_back() -> Result<()> {
    each_family(|ends| {
        for proto in [Proto::Tcp, Proto::Udp] {
            let outer = outer(ends);
            let mut path = Datapath::new()?;
            path.set_node_addresses(&[outer.node])?;
            path.set([everywhere(proto, ends, &[ends.backend])])?;
            for (to, number) in
                [ends.vip, outer.node_port, outer.balancer, outer.external].into_iter().zip(1..)
            {
                // Each connection has its own port, because all have the same destination at the backend.
                let client = SocketAddr::new(first(proto, ends.client, to).src, 40_000 + number);
                let sent = first(proto, client, to);
                assert_same(&path.from_pod(&sent)?.packet()?, &sent.clone().with_dst(ends.backend));
                let reply = match proto {
                    Proto::Udp => udp(ends.backend, client).payload("y"),
                    _ => tcp(ends.backend, client).syn_ack(),
                };
                assert_same(&path.to_pod(&reply)?.packet()?, &reply.clone().with_src(to));
            }
        }
        Ok(())
    })
}

#[test]
fn a_pod_reaches_itself_through_frontends_of_every_kind() -> Result<()> {
    each_family(|ends| {
        let own = ends.client.replace("40000", "8080");
        let outer = outer(ends);
        for to in [ends.vip, outer.node_port, outer.balancer, outer.external] {
            let mut path = Datapath::new()?;
            path.set_node_addresses(&[outer.node])?;
            path.set([everywhere(Proto::Tcp, ends, &[&own])])?;
            let sent = tcp(ends.client, to).syn();
            let outcome = path.from_pod(&sent)?;
            assert_eq!(outcome.verdict, REDIRECT);
            let shown = SocketAddr::new(to.parse::<SocketAddr>()?.ip(), 40_000);
            let expected = sent.clone().with_src(shown).with_dst(own.as_str());
            assert_same(&outcome.packet()?, &expected.macs(sent.eth_dst, sent.eth_src));
            let reply = tcp(own.as_str(), shown).syn_ack();
            let expected = reply.clone().with_src(to).with_dst(ends.client);
            assert_same(&path.from_pod(&reply)?.packet()?, &expected.macs(reply.eth_dst, reply.eth_src));
        }
        Ok(())
    })
}

#[test]
fn a_flow_by_an_address_that_left_the_node_is_found_after_a_sweep() -> Result<()> {
    each_family(|ends| {
        let outer = outer(ends);
        // An address in a block of its own that has no flow.
        let idle = outer.balancer.parse::<SocketAddr>()?.ip();
        let bits = [outer.node.parse::<IpAddr>()?, idle].map(|address| node_bit(address.into()));
        let mut path = Datapath::new()?;
        path.set([everywhere(Proto::Tcp, ends, &[ends.backend])])?;
        path.set_node_addresses(&[outer.node, &idle.to_string()])?;
        let sent = tcp(ends.client, outer.node_port).syn();
        path.from_pod(&sent)?.packet()?;
        path.sweep(2)?;
        assert_eq!(bits.map(|bit| path.has_bit(bit)), [true, true]);
        path.set_node_addresses(&[])?;
        path.sweep(2)?;
        assert_eq!(bits.map(|bit| path.has_bit(bit)), [true, false]);
        assert_same(&path.from_pod(&sent)?.packet()?, &sent.clone().with_dst(ends.backend));
        Ok(())
    })
}

#[test]
fn a_node_port_answers_on_the_addresses_of_the_node_and_nowhere_else() -> Result<()> {
    each_family(|ends| {
        let outer = outer(ends);
        let mut path = Datapath::new()?;
        path.set([everywhere(Proto::Tcp, ends, &[ends.backend])])?;
        let sent = tcp(ends.client, outer.node_port).syn();
        assert_same(&path.from_pod(&sent)?.packet()?, &sent);
        path.set_node_addresses(&[outer.node])?;
        assert_same(&path.from_pod(&sent)?.packet()?, &sent.clone().with_dst(ends.backend));
        // The flow continues when the address is gone, but a new flow cannot begin.
        path.set_node_addresses(&[])?;
        assert_same(&path.from_pod(&sent)?.packet()?, &sent.clone().with_dst(ends.backend));
        let later = SocketAddr::new(sent.src, 40_001);
        assert_eq!(path.from_pod(&tcp(later, outer.node_port).syn())?.packet()?.to(), sent.to());
        // The NodePort at the address of another node, and with another protocol.
        path.set_node_addresses(&[outer.node])?;
        for other in
            [tcp(later, ends.second.replace(":8080", ":30080").as_str()).syn(), udp(later, outer.node_port)]
        {
            let outcome = path.from_pod(&other)?;
            assert_eq!(outcome.verdict, CONTINUE);
            assert_same(&outcome.packet()?, &other);
        }
        assert_eq!(path.flows()?.len(), 1);
        Ok(())
    })
}

/// The internal policy applies to ClusterIPs; from inside, the other kinds lead to the Cluster set, whatever the
/// policies.
#[test]
fn under_local_policies_a_pod_gets_the_local_set_at_the_cluster_ip_only() -> Result<()> {
    each_family(|ends| {
        let outer = outer(ends);
        let mut path = Datapath::new()?;
        path.set_node_addresses(&[outer.node])?;
        let (name, mut port) = everywhere(Proto::Tcp, ends, &[ends.backend]);
        port.flags |= ServiceRecord::INTERNAL_LOCAL | ServiceRecord::EXTERNAL_LOCAL;
        path.set([(name.clone(), port.clone())])?;
        assert_eq!(path.from_pod(&tcp(ends.client, ends.vip).syn())?.verdict, DROP);
        assert_eq!(path.counter(Counter::DropNoLocalEndpoint)?, 1);
        for (to, host) in [(outer.node_port, 1), (outer.balancer, 2), (outer.external, 3)] {
            let client = SocketAddr::new(tcp(ends.client, to).src, 41_000 + host);
            let sent = tcp(client, to).syn();
            assert_same(&path.from_pod(&sent)?.packet()?, &sent.clone().with_dst(ends.backend));
        }
        // The Service gets an endpoint on this node.
        let (_, both) = service(Proto::Tcp, ends.vip, &[ends.backend, ends.second]);
        port.backends = both.backends;
        port.local = BTreeSet::from([endpoint(ends.second)]);
        path.set([(name, port)])?;
        let sent = tcp(ends.client, ends.vip).syn();
        assert_same(&path.from_pod(&sent)?.packet()?, &sent.clone().with_dst(ends.second));
        Ok(())
    })
}

#[test]
fn source_ranges_are_for_load_balancer_addresses_and_new_connections() -> Result<()> {
    each_family(|ends| {
        let outer = outer(ends);
        let mut path = Datapath::new()?;
        path.set_node_addresses(&[outer.node])?;
        let (name, mut port) = everywhere(Proto::Tcp, ends, &[ends.backend]);
        path.set([(name.clone(), port.clone())])?;
        let known = tcp(ends.client, outer.balancer).syn();
        path.from_pod(&known)?;

        let office = if ends.client == V4.client { ("192.0.2.0", 24) } else { ("2001:db8:77::", 48) };
        port.source_ranges = BTreeSet::from([Prefix::new(office.0.parse()?, office.1)]);
        path.set([(name.clone(), port.clone())])?;
        let again = tcp(ends.client, outer.balancer).ack();
        assert_same(&path.from_pod(&again)?.packet()?, &again.clone().with_dst(ends.backend));
        let client = SocketAddr::new(known.src, 41_000);
        assert_eq!(path.from_pod(&tcp(client, outer.balancer).syn())?.verdict, DROP);
        assert_eq!(path.counter(Counter::DropSourceRange)?, 1);
        for (to, port) in [(ends.vip, 1), (outer.node_port, 2), (outer.external, 3)] {
            let sent = tcp(SocketAddr::new(known.src, 42_000 + port), to).syn();
            assert_same(&path.from_pod(&sent)?.packet()?, &sent.clone().with_dst(ends.backend));
        }
        // A range that contains this client, next to another range.
        let len = if ends.client == V4.client { 24 } else { 64 };
        port.source_ranges.insert(Prefix::new(known.src, len));
        path.set([(name.clone(), port.clone())])?;
        let sent = tcp(SocketAddr::new(known.src, 43_000), outer.balancer).syn();
        assert_same(&path.from_pod(&sent)?.packet()?, &sent.clone().with_dst(ends.backend));
        // Without ranges every client is admitted.
        port.source_ranges.clear();
        path.set([(name, port)])?;
        let sent = tcp(SocketAddr::new(known.src, 43_001), outer.balancer).syn();
        assert_same(&path.from_pod(&sent)?.packet()?, &sent.clone().with_dst(ends.backend));
        Ok(())
    })
}

/// Ranges belong to one service: those of the next service id admit no client.
#[test]
fn the_source_ranges_of_another_service_admit_no_client() -> Result<()> {
    let mut path = Datapath::new()?;
    let open = Prefix::new("10.244.0.0".parse()?, 16);
    let shut = Prefix::new("192.0.2.0".parse()?, 24);
    for (vip, balancer, range) in [(V4.vip, "203.0.113.10:80", open), (V4.other_vip, "203.0.113.20:80", shut)]
    {
        let (name, mut port) =
            also_on(service(Proto::Tcp, vip, &[V4.backend]), FrontendKind::LoadBalancer, balancer);
        port.source_ranges = [range].into();
        path.set([(name, port)])?;
    }
    assert_eq!(path.from_pod(&tcp(V4.client, "203.0.113.10:80").syn())?.verdict, CONTINUE);
    assert_eq!(path.from_pod(&tcp("10.244.1.10:40001", "203.0.113.20:80").syn())?.verdict, DROP);
    Ok(())
}

const MANY: [&str; 4] = ["10.244.1.11:8080", "10.244.1.12:8080", "10.244.1.13:8080", "10.244.1.14:8080"];

/// The backends that new connections of one client, from these ports, go to.
fn visited(path: &mut Datapath, to: &str, ports: std::ops::Range<u16>) -> Result<BTreeSet<String>> {
    let mut visited = BTreeSet::new();
    for port in ports {
        visited.insert(
            path.from_pod(&tcp(("10.244.1.10".parse()?, port), to).syn())?.packet()?.to().to_string(),
        );
    }
    Ok(visited)
}

fn sticky(seconds: u32, backends: &[&str]) -> (ServicePortName, DesiredPort) {
    let (name, mut port) = everywhere(Proto::Tcp, &V4, backends);
    port.affinity_timeout = seconds;
    (name, port)
}

#[test]
fn with_affinity_a_client_stays_with_its_backend_on_every_frontend_of_the_port() -> Result<()> {
    let mut path = Datapath::new()?;
    let outer = outer(&V4);
    path.set_node_addresses(&[outer.node])?;
    path.set([sticky(10_800, &MANY)])?;
    let mut all = visited(&mut path, V4.vip, 20_000..20_030)?;
    for (to, port) in [(outer.node_port, 21_000), (outer.balancer, 22_000), (outer.external, 23_000)] {
        all.extend(visited(&mut path, to, port..port + 30)?);
    }
    assert_eq!(all.len(), 1, "{all:?}");
    // Other clients go elsewhere.
    let mut others = BTreeSet::new();
    for host in 1..100 {
        let client = SocketAddr::new(std::net::Ipv4Addr::new(10, 244, 2, host).into(), 40_000);
        others.insert(path.from_pod(&tcp(client, V4.vip).syn())?.packet()?.to().to_string());
    }
    assert_eq!(others.len(), 4);
    Ok(())
}

#[test]
fn affinity_is_switched_on_and_off_at_once() -> Result<()> {
    let mut path = Datapath::new()?;
    path.set([sticky(0, &MANY)])?;
    assert!(visited(&mut path, V4.vip, 20_000..20_060)?.len() > 1);
    path.set([sticky(10_800, &MANY)])?;
    assert_eq!(visited(&mut path, V4.vip, 21_000..21_060)?.len(), 1);
    path.set([sticky(0, &MANY)])?;
    assert!(visited(&mut path, V4.vip, 22_000..22_060)?.len() > 1);
    Ok(())
}

#[test]
fn affinity_is_forgotten_when_its_timeout_passed_without_a_new_connection() -> Result<()> {
    let mut path = Datapath::new()?;
    path.set([sticky(3, &MANY)])?;
    let mut all = BTreeSet::new();
    // Each new connection refreshes the affinity, so it lasts longer than the timeout in all.
    for step in 0..5 {
        all.extend(visited(&mut path, V4.vip, 20_000 + step * 10..20_005 + step * 10)?);
        sleep(Duration::from_millis(1_000));
    }
    assert_eq!(all.len(), 1, "{all:?}");
    // After its timeout the client may return to the same backend by chance, so several tries are made, each after a
    // pause.
    let mut after = BTreeSet::new();
    for step in 0..4 {
        sleep(Duration::from_millis(3_050));
        after.extend(visited(&mut path, V4.vip, 21_000 + step * 10..21_005 + step * 10)?);
    }
    // Four tries get the same one of four backends once in 64 runs; more tries are made in this case.
    for step in 4..16 {
        if after.len() > 1 {
            break;
        }
        sleep(Duration::from_millis(3_050));
        after.extend(visited(&mut path, V4.vip, 21_000 + step * 10..21_005 + step * 10)?);
    }
    assert!(after.len() > 1, "{after:?}");
    // A new timeout takes effect at once.
    path.set([sticky(10_800, &MANY)])?;
    let before = visited(&mut path, V4.vip, 22_000..22_010)?;
    assert_eq!(before.len(), 1);
    Ok(())
}

/// Affinity does not keep a client at a backend that left the set (not ready, or removed), although the backend still
/// has its flows.
#[test]
fn affinity_is_valid_only_within_the_set() -> Result<()> {
    let mut path = Datapath::new()?;
    path.set([sticky(10_800, &MANY)])?;
    let first =
        visited(&mut path, V4.vip, 20_000..20_010)?.pop_first().expect("the client reaches a backend");
    let (name, mut port) = sticky(10_800, &MANY);
    port.cluster.remove(&endpoint(&first));
    path.set([(name, port)])?;
    let second = visited(&mut path, V4.vip, 21_000..21_010)?;
    assert_eq!(second.len(), 1);
    assert!(!second.contains(&first));
    // The backend is back, and the client stays with the new one.
    path.set([sticky(10_800, &MANY)])?;
    assert_eq!(visited(&mut path, V4.vip, 22_000..22_010)?, second);
    // The new backend is removed for good.
    let left: Vec<&str> = MANY.into_iter().filter(|backend| !second.contains(*backend)).collect();
    path.set([sticky(10_800, &left)])?;
    let third = visited(&mut path, V4.vip, 23_000..23_010)?;
    assert!(third.len() == 1 && third.is_disjoint(&second), "{third:?}");
    // A new endpoint that gets the id of a removed backend is not mistaken for it.
    path.set([sticky(10_800, &["10.244.1.99:8080", "10.244.1.98:8080"])])?;
    assert_eq!(visited(&mut path, V4.vip, 24_000..24_010)?.len(), 1);
    Ok(())
}

/// Two connections of one client begin on two CPUs, and both find that the client's backend has left: they choose the
/// same new backend. Here they run one after the other, each with the table as the other found it.
#[test]
fn connections_that_replace_a_clients_backend_at_once_agree() -> Result<()> {
    const CLIENTS: u8 = 64;
    let client = |host: u8, port| SocketAddr::new(std::net::Ipv4Addr::new(10, 244, 2, host).into(), port);
    let mut path = Datapath::new()?;
    path.set([sticky(10_800, &["10.244.1.99:8080"])])?;
    for host in 0..CLIENTS {
        path.from_pod(&tcp(client(host, 20_000), V4.vip).syn())?;
    }
    path.set([sticky(10_800, &MANY)])?;
    let affinity = MapData::from_pin(path.pin(names::AFFINITY))?;
    let mut affinity: HashMap<_, [u8; size_of::<AffinityKey>()], [u8; size_of::<Affinity>()]> =
        Map::LruHashMap(affinity).try_into()?;
    let found = affinity.iter().collect::<Result<Vec<_>, _>>()?;
    assert_eq!(found.len(), usize::from(CLIENTS));
    let mut chosen = |port| -> Result<Vec<String>> {
        for (client, entry) in &found {
            affinity.insert(client, entry, 0)?;
        }
        let mut to = |host| -> Result<String> {
            let packet = tcp(client(host, port), V4.vip).syn();
            Ok(path.from_pod(&packet)?.packet()?.to().to_string())
        };
        (0..CLIENTS).map(&mut to).collect()
    };
    let first = chosen(21_000)?;
    assert_eq!(chosen(22_000)?, first);
    // The clients of the removed backend are spread over the remaining ones.
    let share = |backend: &str| first.iter().filter(|one| *one == backend).count();
    assert!(MANY.into_iter().all(|backend| share(backend) >= 4), "{first:?}");
    Ok(())
}

#[test]
fn affinity_under_a_local_policy_is_within_the_local_set() -> Result<()> {
    let mut path = Datapath::new()?;
    path.set([sticky(10_800, &MANY)])?;
    let first =
        visited(&mut path, V4.vip, 20_000..20_010)?.pop_first().expect("the client reaches a backend");
    let (name, mut port) = sticky(10_800, &MANY);
    port.flags |= ServiceRecord::INTERNAL_LOCAL;
    port.local = MANY.into_iter().filter(|backend| *backend != first).map(endpoint).collect();
    path.set([(name, port)])?;
    let local = visited(&mut path, V4.vip, 21_000..21_010)?;
    assert!(local.len() == 1 && !local.contains(&first), "{local:?}");
    Ok(())
}

#[test]
fn affinity_of_datagrams_and_of_ipv6() -> Result<()> {
    let mut path = Datapath::new()?;
    let (name, mut port) = service(Proto::Udp, V6.vip, &[V6.backend, V6.second]);
    port.affinity_timeout = 60;
    path.set([(name, port)])?;
    let mut visited = BTreeSet::new();
    for port in 20_000..20_040 {
        let client = SocketAddr::new("fd00:10:244:1::10".parse()?, port);
        visited.insert(path.from_pod(&udp(client, V6.vip).payload("x"))?.packet()?.to());
    }
    assert_eq!(visited.len(), 1);
    Ok(())
}
