//! The worlds themselves, without `lb`: traffic between pods, the properties of layouts, and that a world leaves
//! nothing behind.

use anyhow::Result;
use lb_common::Proto;
use lb_tests::echo::Echo;
use lb_tests::load::{
    Held, HeldTcp, HeldUdp, Kind, Pinger, Requests, SynFlood, TcpHandle, connect_from, transfer,
};
use lb_tests::packet::{Tcp, tcp};
use lb_tests::world::{Endpoint, Family, Layout, OUTSIDE_V4, Pod, Service, Tap, World};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

const PORT: u16 = 8_080;

/// Sends TCP and UDP in both families from the client directly to a pod.
fn check_direct_traffic(name: &str, layout: Layout) -> Result<()> {
    let world = World::new(layout)?;
    let pod = world.backend(1);
    let echo = Echo::start(&pod.netns, "b1", &[PORT])?;
    for family in Family::ALL {
        for proto in [Proto::Tcp, Proto::Udp] {
            let report = Requests::new(proto, pod.at(family, PORT)).count(50).run(&world.client().netns);
            assert!(report.failures.is_empty() && report.answers["b1"] == 50, "{name}, {proto}: {report}");
        }
        assert!(echo.sources().contains(&world.client().ip(family)), "{name}: {:?}", echo.sources());
    }
    assert_eq!(echo.count(Proto::Tcp), 100, "{name}");
    Ok(())
}

#[test]
fn pods_reach_each_other_in_every_layout() -> Result<()> {
    for (name, layout) in Layout::all() {
        check_direct_traffic(name, layout)?;
    }
    Ok(())
}

#[test]
fn pods_reach_each_other_through_the_policy_and_the_strict_filter() -> Result<()> {
    for (name, layout) in Layout::all() {
        check_direct_traffic(name, layout.with_policy().with_rp_filter(1))?;
    }
    Ok(())
}

#[test]
fn the_node_and_the_outside_reach_pods() -> Result<()> {
    for layout in [Layout::routed(), Layout::bridge(false, true)] {
        let world = World::new(layout)?;
        let pod = world.backend(1);
        let _echo = Echo::start(&pod.netns, "b1", &[PORT])?;
        for family in Family::ALL {
            Requests::tcp(pod.at(family, PORT)).count(5).run(world.node()).assert_clean();
            Requests::tcp(pod.at(family, PORT)).count(5).run(world.outside()).assert_clean();
        }
    }
    Ok(())
}

#[test]
fn settings_are_those_of_the_layout() -> Result<()> {
    let world = World::new(Layout::bridge(false, true).with_rp_filter(1).with_clients(2).with_backends(5))?;
    let node = world.node();
    assert_eq!(node.sysctl("net/bridge/bridge-nf-call-iptables")?, "0");
    assert_eq!(node.sysctl("net/ipv4/conf/veth-b5/rp_filter")?, "1");
    assert_eq!(node.sysctl("net/ipv4/conf/all/rp_filter")?, "0");
    for tool in ["iptables", "ip6tables"] {
        assert!(node.run(tool, &["-S", "FORWARD"])?.contains("--ctstate INVALID -j DROP"), "{tool}");
    }
    assert_eq!(world.client().v4.octets(), [10, 244, 1, 10]);
    assert_eq!(world.pod("client2").v4.octets(), [10, 244, 1, 30]);
    assert_eq!(world.backends().len(), 5);
    assert_eq!(world.backend(5).v6.to_string(), "fd00:10:244:1::15");
    for (netns, link) in [(node, "veth-b1"), (&world.backend(1).netns, Pod::LINK)] {
        let offloads = netns.run("ethtool", &["-k", link])?;
        for offload in ["tcp-segmentation-offload: on", "tx-checksumming: on", "generic-receive-offload: "] {
            assert!(offloads.contains(offload), "{link}: {offloads}");
        }
    }
    Ok(())
}

#[test]
fn conntrack_sees_forwarded_packets_where_invalid_is_dropped() -> Result<()> {
    // Over a bridge without br_netfilter, conntrack does not see packets between the bridge's ports.
    for (br_netfilter, expected) in [(true, true), (false, false)] {
        let world = World::new(Layout::bridge(br_netfilter, true))?;
        let pod = world.backend(1);
        let _echo = Echo::start(&pod.netns, "b1", &[PORT])?;
        Requests::tcp(pod.at(Family::V4, PORT)).count(5).run(&world.client().netns).assert_clean();
        assert_eq!(is_tracked(&world, pod.at(Family::V4, PORT)), expected, "br_netfilter {br_netfilter}");
    }
    let world = World::new(Layout::bridge(false, true))?;
    let outside = (world.outside(), SocketAddr::from((OUTSIDE_V4, PORT)));
    let _echo = Echo::start(outside.0, "outside", &[PORT])?;
    Requests::tcp(outside.1).count(5).run(&world.client().netns).assert_clean();
    assert!(is_tracked(&world, outside.1), "routed packets are seen");
    Ok(())
}

/// Whether the node's conntrack knows a connection to this address.
fn is_tracked(world: &World, to: SocketAddr) -> bool {
    // /proc/net belongs to the process; /proc/thread-self/net belongs to the namespace of the reading thread.
    let table = world.node().enter(|| fs::read_to_string("/proc/thread-self/net/nf_conntrack"));
    let table = table.expect("the kernel must list connections (CONFIG_NF_CONNTRACK_PROCFS)");
    let (address, port) = (format!("dst={} ", to.ip()), format!("dport={} ", to.port()));
    table.lines().any(|line| line.contains(&address) && line.contains(&port))
}

#[test]
fn the_policy_drops_replies_to_what_it_has_not_seen() -> Result<()> {
    let world = World::new(Layout::routed().with_policy())?;
    let (pod, client) = (world.backend(1), world.client());
    let tap = Tap::on(pod)?;
    let (from, to) = (client.at(Family::V4, 40_000), pod.at(Family::V4, 40_001));
    client.send(&[tcp(from, to).syn_ack(), tcp(from, to).syn()])?;
    std::thread::sleep(Duration::from_millis(200));
    let with = |flags| {
        tap.count(|packet| packet.from() == from && packet.tcp().is_some_and(|tcp| tcp.flags == flags))
    };
    assert_eq!(with(Tcp::SYN), 1, "the first packet of a connection passes");
    assert_eq!(with(Tcp::SYN | Tcp::ACK), 0, "an answer without a request does not pass");
    Ok(())
}

#[test]
fn held_connections_and_transfers_work() -> Result<()> {
    let world = World::new(Layout::routed())?;
    let (pod, client) = (world.backend(1), &world.client().netns);
    let _echo = Echo::start(&pod.netns, "b1", &[PORT])?;
    for family in Family::ALL {
        let target = pod.at(family, PORT);
        let tcp = Pinger::start(HeldTcp::open(client, target, 100)?, Duration::from_millis(1));
        let udp = Pinger::start(HeldUdp::open(client, target, 10)?, Duration::from_millis(1));
        assert_eq!(transfer(client, target, 20)?.bytes, 20 << 20);
        let ((tcp, tcp_failures), (mut udp, udp_failures)) = (tcp.stop(), udp.stop());
        assert!(tcp_failures.is_empty() && udp_failures.is_empty(), "{tcp_failures:?} {udp_failures:?}");
        assert_eq!(tcp.backends()["b1"], 100);
        assert!(udp.ping().is_empty());
    }
    Ok(())
}

#[test]
fn a_thousand_connections_are_held_through_a_flood() -> Result<()> {
    let world = World::new(Layout::routed().with_clients(2))?;
    let (pod, client) = (world.backend(1), &world.client().netns);
    let _echo = Echo::start(&pod.netns, "b1", &[PORT])?;
    let mut tcp = HeldTcp::open(client, pod.at(Family::V4, PORT), 1_000)?;
    let mut udp = HeldUdp::open(client, pod.at(Family::V6, PORT), 100)?;
    SynFlood::to(pod.at(Family::V4, PORT)).packets(20_000).run(world.pod("client2"))?;
    let failures = [tcp.ping(), udp.ping()].concat();
    assert!(failures.is_empty(), "{} failures, the first: {}", failures.len(), failures[0]);
    Ok(())
}

#[test]
fn failures_have_their_kind() -> Result<()> {
    let world = World::new(Layout::routed())?;
    let (pod, client) = (world.backend(1), &world.client().netns);
    let timeout = Duration::from_millis(300);
    for family in Family::ALL {
        let refused = client.enter(|| connect_from(0, pod.at(family, PORT), timeout)).expect_err("no server");
        assert_eq!(refused.kind, Kind::Refused);
        let nobody: SocketAddr = match family {
            Family::V4 => ([10, 96, 0, 10], PORT).into(),
            Family::V6 => "[fd00:10:96::10]:8080".parse()?,
        };
        let silent = client.enter(|| connect_from(0, nobody, timeout)).expect_err("no such host");
        assert_eq!(silent.kind, Kind::TimedOut, "{family:?}");
        let echo = Echo::start(&pod.netns, "b1", &[PORT])?;
        let mut held = HeldTcp::open(client, pod.at(family, PORT), 3)?;
        drop(echo);
        assert_eq!(held.ping().len(), 3, "the server is gone");
    }
    Ok(())
}

#[test]
fn a_port_of_the_client_can_be_chosen_and_shared() -> Result<()> {
    let world = World::new(Layout::routed())?;
    let client = &world.client().netns;
    let echoes: Vec<_> = world
        .backends()
        .iter()
        .map(|pod| Echo::start(&pod.netns, &pod.name, &[PORT]))
        .collect::<Result<_>>()?;
    let open = |pod: &Pod| TcpHandle::open(client, 50_000, pod.at(Family::V4, PORT));
    let mut held = [open(world.backend(1))?, open(world.backend(2))?];
    for handle in &mut held {
        assert_eq!(handle.local.port(), 50_000);
        handle.ping()?;
    }
    assert_eq!(echoes[1].visits()[0].from, world.client().at(Family::V4, 50_000));
    Ok(())
}

#[test]
fn the_flood_arrives() -> Result<()> {
    let world = World::new(Layout::routed())?;
    let pod = world.backend(1);
    for family in Family::ALL {
        let before = received(pod)?;
        let took = SynFlood::to(pod.at(family, PORT)).packets(200_000).run(world.client())?;
        let arrived = received(pod)? - before;
        println!("{family:?}: 200,000 SYNs in {took:.1?}, {arrived} arrived");
        assert!(arrived >= 190_000, "{family:?}: only {arrived} of 200,000 arrived");
    }
    Ok(())
}

/// The number of packets that the link of a pod has received.
fn received(pod: &Pod) -> Result<u64> {
    let json = pod.netns.run("ip", &["-j", "-s", "link", "show", Pod::LINK])?;
    let links: serde_json::Value = serde_json::from_str(&json)?;
    Ok(links[0]["stats64"]["rx"]["packets"].as_u64().expect("a link counts its packets"))
}

#[test]
fn a_world_leaves_nothing() -> Result<()> {
    let world = World::new(Layout::bridge(true, true).with_policy())?;
    let names: Vec<_> = world.pods().iter().map(|pod| pod.netns.name().to_string()).collect();
    let folder = world.folder().path().to_path_buf();
    let mut child = world.node().command("sleep").arg("1000").spawn()?;
    drop(world);
    assert!(!child.wait()?.success(), "the process inside the world is ended");
    for name in names {
        assert!(!Path::new("/run/netns").join(name).exists());
    }
    assert!(!folder.exists());
    assert!(!fs::read_to_string("/proc/mounts")?.contains(&*folder.to_string_lossy()));
    Ok(())
}

#[test]
fn manifests_are_written_whole() -> Result<()> {
    let world = World::new(Layout::routed())?;
    let service = Service::new("web").vips(10).tcp(80, PORT).udp(53, 5_353);
    let endpoints = world.backends().iter().map(Endpoint::from).map(Endpoint::terminating);
    world.manifests().write(&service.endpoints(endpoints))?;
    let mut names: Vec<_> = fs::read_dir(world.folder().manifests())?
        .map(|entry| entry.map(|entry| entry.file_name().into_string().expect("the names are ASCII")))
        .collect::<std::io::Result<_>>()?;
    names.sort();
    assert_eq!(names, ["default.web.yaml", "node-1.yaml"]);
    let yaml = fs::read_to_string(world.folder().manifests().join("default.web.yaml"))?;
    assert_eq!(yaml.matches("terminating: true").count(), 6, "three pods in two families:\n{yaml}");
    assert_eq!(yaml.matches("kind: EndpointSlice").count(), 2);
    Ok(())
}
