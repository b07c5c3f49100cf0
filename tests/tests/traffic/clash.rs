//! Connections from one client port that would become one connection at the backend.

use crate::stage::{Stage, TARGET, service, vip};
use anyhow::Result;
use lb_common::Proto;
use lb_tests::load::{TcpHandle, UdpHandle};
use lb_tests::world::{Family, Layout};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

/// Ways to one port of one pod: through a Service, or direct.
#[derive(Clone, Copy, Debug)]
enum Way {
    Vip(u8),
    Direct,
}

const A: Way = Way::Vip(20);
const B: Way = Way::Vip(21);
const C: Way = Way::Vip(22);
const DIRECT: Way = Way::Direct;

const ORDERS: [[Way; 4]; 4] = [[A, B, C, DIRECT], [DIRECT, A, B, C], [A, DIRECT, B, C], [C, B, DIRECT, A]];

impl Way {
    fn target(self, stage: &Stage, family: Family) -> SocketAddr {
        match self {
            Self::Vip(host) => vip(family, host),
            Self::Direct => stage.world.backend(1).at(family, TARGET),
        }
    }
}

fn stage(layout: Layout) -> Result<Stage> {
    let stage = Stage::new(layout)?;
    for (name, host) in [("a", 20), ("b", 21), ("c", 22)] {
        stage.apply(&service(name, host).endpoints(stage.backends(1)))?;
    }
    Ok(stage)
}

/// Asserts that the pod has seen as many peers of this protocol as there are ways, one of them with the client's own
/// port.
fn assert_peers(stage: &Stage, proto: Proto, port: u16, order: &[Way]) {
    let visits = stage.echo("b1").visits();
    let peers: BTreeSet<SocketAddr> = visits.iter().filter(|v| v.proto == proto).map(|v| v.from).collect();
    assert_eq!(peers.len(), order.len(), "{order:?}: {peers:?}");
    assert!(peers.iter().any(|peer| peer.port() == port), "{order:?}: {peers:?}");
}

#[test]
fn tcp_connections_from_one_port_live_side_by_side() -> Result<()> {
    for layout in [Layout::routed(), Layout::bridge(false, true)] {
        let stage = stage(layout)?;
        for (family, first) in Family::ALL.into_iter().zip([40_000, 40_100]) {
            for (order, port) in ORDERS.iter().zip(first..) {
                stage.echo("b1").forget();
                let mut held = Vec::new();
                for way in order {
                    held.push(TcpHandle::open(stage.client(), port, way.target(&stage, family))?);
                    // Each new connection leaves the others unchanged.
                    for _ in 0..3 {
                        held.iter_mut().try_for_each(TcpHandle::ping)?;
                    }
                }
                assert_peers(&stage, Proto::Tcp, port, order);
                sleep(Duration::from_millis(300));
                held.iter_mut().rev().try_for_each(TcpHandle::ping)?;
                assert_peers(&stage, Proto::Tcp, port, order);
            }
        }
        assert!(stage.counter("clash_resolved")? >= 24, "three of four, in four orders and two families");
    }
    Ok(())
}

#[test]
fn udp_flows_from_one_port_live_side_by_side() -> Result<()> {
    for layout in [Layout::routed(), Layout::bridge(false, true)] {
        let stage = stage(layout)?;
        for (family, first) in Family::ALL.into_iter().zip([41_000, 41_100]) {
            for (order, port) in ORDERS.iter().zip(first..) {
                stage.echo("b1").forget();
                // All requests use one socket, so each answer must come from the address that was asked.
                let mut socket = UdpHandle::open(stage.client(), port, order[0].target(&stage, family))?;
                for round in 0..6 {
                    for way in order {
                        socket.target = way.target(&stage, family);
                        assert_eq!(socket.ask()?, "b1", "round {round}, {way:?}");
                    }
                }
                assert_peers(&stage, Proto::Udp, port, order);
            }
        }
        assert!(stage.counter("clash_resolved")? >= 24, "three of four, in four orders and two families");
    }
    Ok(())
}

/// The clash exists before either flow has had an answer.
#[test]
fn datagrams_sent_in_one_breath_are_all_answered() -> Result<()> {
    let stage = stage(Layout::routed())?;
    for family in Family::ALL {
        for (order, port) in ORDERS.iter().zip(42_000..) {
            let any = if family == Family::V4 { "0.0.0.0" } else { "::" };
            let socket = stage.client().enter(|| std::net::UdpSocket::bind((any, port)))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            let targets: BTreeSet<SocketAddr> = order.iter().map(|way| way.target(&stage, family)).collect();
            for target in order.iter().map(|way| way.target(&stage, family)) {
                socket.send_to(target.to_string().as_bytes(), target)?;
            }
            let mut answered = BTreeSet::new();
            for _ in order {
                let mut buffer = [0; 200];
                let (len, from) = socket.recv_from(&mut buffer)?;
                let answer = String::from_utf8_lossy(&buffer[..len]).into_owned();
                assert_eq!(answer, format!("b1 {from}"), "the address that was asked must answer");
                answered.insert(from);
            }
            assert_eq!(answered, targets);
        }
    }
    Ok(())
}

/// A connection does not block its port for later connections.
#[test]
fn a_port_is_used_again_and_again() -> Result<()> {
    let stage = stage(Layout::routed())?;
    for family in Family::ALL {
        for _ in 0..8 {
            for way in [A, DIRECT, B] {
                let mut connection = TcpHandle::open(stage.client(), 43_000, way.target(&stage, family))?;
                connection.ping()?;
                // The connection is reset, because a TIME_WAIT of the client would block the next round.
                socket2::SockRef::from(&connection.stream).set_linger(Some(Duration::ZERO))?;
            }
        }
    }
    Ok(())
}
