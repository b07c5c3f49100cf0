//! What one pod can do to another with packets whose source is forged. Nothing on the node drops them here: strict
//! reverse path filters, where there are any, come after our programs and do not exist for IPv6.

use crate::stage::{CLOSED, SHOP, Stage, TARGET, WEB, service, vip};
use anyhow::Result;
use lb_common::Proto;
use lb_tests::load::{Held, HeldTcp, Requests, SynFlood};
use lb_tests::packet::{Packet, tcp, udp};
use lb_tests::world::{Cni, Family, GATEWAY_MAC, Layout, Pod, Service, Wire};
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 20;
/// Forged packets of each kind for a connection.
const TIMES: u32 = 20;
/// More than fit into a ring.
const OWN_SYNS: usize = 100_000;
/// The range in which a client's own ports are.
const PORTS: std::ops::Range<u16> = 32_768..61_000;

/// A client, and a pod that attacks it.
fn stage(layout: Layout) -> Result<Stage> {
    Stage::new(layout.with_clients(2))
}

/// A bridge that drops frames of the attacker with the MAC address of somebody else, as the bridge plugin does with
/// `macspoofchk`. What it drops it drops after our programs.
fn stage_on_a_bridge() -> Result<Stage> {
    let stage = stage(Layout::bridge(false, false))?;
    let attacker = stage.world.pod("client2");
    let mac = attacker.netns.link_mac(Pod::LINK)?;
    stage.world.node().run(
        "nft",
        &[&format!(
            "table bridge own {{ chain frames {{ type filter hook prerouting priority -300; \
             iifname {} ether saddr != {mac} drop; }}; }}",
            attacker.link
        )],
    )?;
    Ok(stage)
}

/// Sends packets as the attacker can address them: on a bridge also to the victim itself, and with its MAC address.
fn attack(stage: &Stage, packets: &[Packet]) -> Result<()> {
    let (victim, attacker) = (stage.world.client(), stage.world.pod("client2"));
    let (own, other) = (attacker.netns.link_mac(Pod::LINK)?, victim.netns.link_mac(Pod::LINK)?);
    let ways = match stage.world.layout().cni {
        Cni::Routed => vec![(own, GATEWAY_MAC)],
        Cni::Bridge { .. } => {
            vec![(own, GATEWAY_MAC), (other, GATEWAY_MAC), (own, other), (other, other)]
        }
    };
    let frames = packets
        .iter()
        .flat_map(|packet| ways.iter().map(|(from, to)| packet.clone().macs(*from, *to).bytes()));
    Wire::of(attacker)?.send(&frames.collect::<Vec<_>>())
}

/// Every segment that would end this connection or open it anew, as its client and as its backend might send them. The
/// backend's other segments could teach the client's link another MAC address.
fn forged(client: SocketAddr, service: SocketAddr, backend: SocketAddr) -> Vec<Packet> {
    let of_client = tcp(client, service);
    let of_backend = tcp(backend, client);
    let straight = tcp(client, backend);
    let mut packets = Vec::new();
    for i in 0..TIMES {
        let seq = i * 0x0bad_cafe;
        packets.extend([of_client.clone().rst(), of_client.clone().fin(), of_backend.clone().rst()]);
        packets.extend([of_backend.clone().fin(), of_client.clone().syn(), straight.clone().syn()]);
        packets.push(of_backend.clone().syn_ack());
        packets.iter_mut().rev().take(7).for_each(|packet| *packet = packet.clone().seq(seq));
    }
    packets
}

#[test]
fn no_pod_ends_the_connections_of_another() -> Result<()> {
    connections_live(&stage(Layout::routed())?)
}

#[test]
fn no_pod_ends_the_connections_of_another_on_a_bridge() -> Result<()> {
    connections_live(&stage_on_a_bridge()?)
}

fn connections_live(stage: &Stage) -> Result<()> {
    let _agent = stage.world.start_agent(&[])?;
    let (victim, attacker) = (stage.world.client(), stage.world.pod("client2"));
    for family in Family::ALL {
        let target = vip(WEB, family, Proto::Tcp);
        let mut held = HeldTcp::open(&victim.netns, target, CONNECTIONS)?;
        let backends = held.backends();
        for connection in &held.connections {
            let backend = stage.world.pod(&connection.backend).at(family, TARGET);
            attack(stage, &forged(connection.local, target, backend))?;
        }
        SynFlood::to(target).from(attacker.ip(family)).packets(OWN_SYNS).run(attacker)?;
        let failures = held.ping();
        assert!(failures.is_empty(), "{family:?}: {} of {CONNECTIONS}: {}", failures.len(), failures[0]);
        assert_eq!(held.backends(), backends, "{family:?}");
        let flows = stage.json("flows")?;
        let own = |flow: &&serde_json::Value| {
            held.connections.iter().any(|held| flow["client"] == held.local.to_string())
        };
        let flows: Vec<_> = flows.as_array().into_iter().flatten().filter(own).collect();
        assert_eq!(flows.len(), CONNECTIONS);
        assert!(flows.iter().all(|flow| flow["phase"] == "assured"), "{family:?}: {flows:?}");
        // The connections end as ever.
        drop(held);
        let deadline = Instant::now() + Duration::from_secs(10);
        while stage.used("flows_live")? > 0 {
            assert!(Instant::now() < deadline, "{family:?}: flows of closed connections stay");
            sleep(Duration::from_millis(100));
        }
    }
    let spoofed = stage.counter("spoofed_source")?;
    let least = u64::from(TIMES) * 6 * 2 * CONNECTIONS as u64;
    assert!(spoofed >= least, "{spoofed} counted, {least} forged");
    Ok(())
}

#[test]
fn no_pod_keeps_another_from_connecting() -> Result<()> {
    connections_begin(&stage(Layout::routed())?)
}

#[test]
fn no_pod_keeps_another_from_connecting_on_a_bridge() -> Result<()> {
    connections_begin(&stage_on_a_bridge()?)
}

fn connections_begin(stage: &Stage) -> Result<()> {
    // Two Services with one endpoint, the same.
    let only = || [&stage.world.backends()[0]];
    stage.write(&service("web", WEB), only())?;
    stage.write(&service("shop", SHOP), only())?;
    let _agent = stage.world.start_agent(&[])?;
    let victim = stage.world.client();
    for family in Family::ALL {
        let source: IpAddr = victim.ip(family);
        for proto in [Proto::Tcp, Proto::Udp] {
            for target in [only()[0].at(family, TARGET), vip(SHOP, family, proto)] {
                let forged = |port| match proto {
                    Proto::Tcp => tcp((source, port), target).syn(),
                    _ => udp((source, port), target).payload("?"),
                };
                attack(stage, &PORTS.map(forged).collect::<Vec<Packet>>())?;
            }
            let requests = Requests::new(proto, vip(WEB, family, proto)).count(60).workers(1);
            requests.run(&victim.netns).assert_clean();
        }
    }
    assert_eq!((stage.counter("clash_dropped")?, stage.counter("clash_resolved")?), (0, 0));
    assert!(stage.counter("spoofed_source")? >= 8 * PORTS.len() as u64);
    Ok(())
}

/// The address that the client had, as a pod has it that takes the client's place.
fn take_over(stage: &Stage, family: Family) -> Result<()> {
    let (old, new) = (stage.world.client(), stage.world.pod("client2"));
    let (address, gateway, len) = match family {
        Family::V4 => (old.ip(family), "10.244.1.1", 24),
        Family::V6 => (old.ip(family), "fd00:10:244:1::1", 64),
    };
    // A CNI announces a new pod's address.
    for pod in stage.world.backends() {
        pod.netns.ip("neigh flush dev eth0\n")?;
    }
    // A new pod asks for its gateway, and the node learns the pod's MAC address from that.
    new.netns.ip(&format!(
        "addr add {address}/{len} dev eth0{}\n\
         neigh flush dev eth0\n\
         route replace default via {gateway} dev eth0 src {address}\n",
        if family == Family::V6 { " nodad" } else { "" }
    ))
}

#[test]
fn a_pod_may_have_the_address_of_an_earlier_one_whose_port_is_still_there() -> Result<()> {
    let stage = stage(Layout::bridge(false, false))?;
    let _agent = stage.world.start_agent(&[])?;
    for family in Family::ALL {
        let (old, new) = (stage.world.client(), stage.world.pod("client2"));
        for proto in [Proto::Tcp, Proto::Udp] {
            Requests::new(proto, vip(WEB, family, proto)).count(5).run(&old.netns).assert_clean();
        }
        old.netns.ip(&format!("addr flush to {} dev eth0\n", old.ip(family)))?;
        take_over(&stage, family)?;
        for proto in [Proto::Tcp, Proto::Udp] {
            Requests::new(proto, vip(WEB, family, proto)).count(5).run(&new.netns).assert_clean();
        }
    }
    assert_eq!(stage.counter("spoofed_source")?, 0);
    Ok(())
}

/// The MAC address may be the same, too (CNIs derive it from the address), while no agent runs.
#[test]
fn a_pod_may_have_both_addresses_of_an_earlier_one_whose_port_is_gone() -> Result<()> {
    let stage = stage(Layout::bridge(false, false))?;
    let mut agent = stage.world.start_agent(&[])?;
    let (old, new) = (stage.world.client(), stage.world.pod("client2"));
    let mac = old.netns.link_mac(Pod::LINK)?;
    for family in Family::ALL {
        let target = vip(WEB, family, Proto::Tcp);
        Requests::tcp(target).count(5).run(&old.netns).assert_clean();
    }
    agent.kill()?;
    stage.world.node().ip(&format!("link del {}\n", old.link))?;
    new.netns.ip(&format!("link set eth0 address {mac}\n"))?;
    for family in Family::ALL {
        take_over(&stage, family)?;
        Requests::tcp(vip(WEB, family, Proto::Tcp)).count(5).run(&new.netns).assert_clean();
    }
    assert_eq!(stage.counter("spoofed_source")?, 0);
    Ok(())
}

/// Whoever uses an address first has it, until the bridge is asked.
#[test]
fn an_address_returns_to_the_port_where_its_bridge_has_learned_the_host() -> Result<()> {
    let stage = stage_on_a_bridge()?;
    let _agent = stage.world.start_agent(&[])?;
    let (victim, attacker) = (stage.world.client(), stage.world.pod("client2"));
    let mac = victim.netns.link_mac(Pod::LINK)?;
    for family in Family::ALL {
        let target = vip(WEB, family, Proto::Tcp);
        let neighbour = format!("neigh replace {} lladdr {mac} dev cni0 nud reachable", victim.ip(family));
        stage.world.node().ip(&neighbour)?;
        let syn = tcp((victim.ip(family), PORTS.start), target).syn();
        Wire::of(attacker)?.send(&[syn.macs(mac, GATEWAY_MAC).bytes()])?;
        let before = stage.counter("spoofed_source")?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while Requests::tcp(target).count(1).workers(1).run(&victim.netns).answered() == 0 {
            assert!(Instant::now() < deadline, "{family:?}: the victim stays locked out");
        }
        assert!(stage.counter("spoofed_source")? > before, "{family:?}: the address was never claimed");
    }
    Ok(())
}

/// Connections for which `--max-flows 2048` leaves room, and the part of it that one client gets.
const ROOM: u64 = 1_600;
const MOST_OF_ONE: u64 = ROOM / 8 * 6;
/// What CPUs may have counted for themselves alone.
const UNCOUNTED: u64 = 200;

#[test]
fn a_pod_that_fills_the_table_leaves_room_for_others_v4() -> Result<()> {
    check_full(Family::V4)
}

#[test]
fn a_pod_that_fills_the_table_leaves_room_for_others_v6() -> Result<()> {
    check_full(Family::V6)
}

fn check_full(family: Family) -> Result<()> {
    let stage = stage(Layout::routed())?;
    let _agent = stage.world.start_agent(&["--max-flows", "2048"])?;
    let (victim, attacker) = (stage.world.client(), stage.world.pod("client2"));
    let target = vip(WEB, family, Proto::Tcp);
    let mut before = HeldTcp::open(&victim.netns, target, CONNECTIONS)?;
    fill(&stage, family)?;
    let taken = stage.used("flows_live")?;
    assert!(taken <= MOST_OF_ONE + CONNECTIONS as u64 + UNCOUNTED, "{taken} live flows");
    // Connections that begin now are assured like those from before: no flood evicts them.
    let mut after = HeldTcp::open(&victim.netns, target, CONNECTIONS)?;
    SynFlood::to(target).from(attacker.ip(family)).packets(OWN_SYNS).run(attacker)?;
    for held in [&mut before, &mut after] {
        let failures = held.ping();
        assert!(failures.is_empty(), "{} of {CONNECTIONS}: {}", failures.len(), failures[0]);
    }
    Requests::tcp(target).count(60).workers(1).run(&victim.netns).assert_clean();
    Ok(())
}

/// Opens connections from the attacker to a Service of its own until it gets no more. Both ends are scripted, so that
/// a connection costs three packets and no socket.
fn fill(stage: &Stage, family: Family) -> Result<()> {
    let (attacker, accomplice) = (stage.world.pod("client2"), &stage.world.backends()[0]);
    stage.write(&Service::new("own").vips(30).tcp(80, CLOSED), [accomplice])?;
    let (source, target) = (attacker.ip(family), vip(30, family, Proto::Tcp));
    // The kernels at both ends must not answer what they know nothing of.
    let silence = format!(
        "table inet silence {{ chain in {{ type filter hook input priority 0; tcp dport {CLOSED} drop; \
         tcp sport 80 tcp dport >= {} drop; }}; }}",
        PORTS.start
    );
    for pod in [attacker, accomplice] {
        pod.netns.run("nft", &[&silence])?;
    }
    let ports: Vec<u16> = PORTS.collect();
    let deadline = Instant::now() + Duration::from_secs(30);
    // A ring has few slots for connections that are half open.
    for ports in ports.chunks(30) {
        let segments = || ports.iter().map(|port| tcp((source, *port), target));
        attacker.send(&segments().map(Packet::syn).collect::<Vec<_>>())?;
        sleep(Duration::from_millis(5));
        let replies = ports.iter().map(|port| tcp(accomplice.at(family, CLOSED), (source, *port)).syn_ack());
        accomplice.send(&replies.collect::<Vec<_>>())?;
        sleep(Duration::from_millis(5));
        attacker.send(&segments().map(|segment| segment.seq(1_001).ack()).collect::<Vec<_>>())?;
        if stage.used("flows_live")? >= MOST_OF_ONE && stage.counter("flow_table_full")? > 0 {
            return Ok(());
        }
        assert!(Instant::now() < deadline, "{} live flows", stage.used("flows_live")?);
    }
    panic!("{} live flows", stage.used("flows_live")?)
}
