//! The fate of connections whose backend is removed, or only shuts down.

use crate::stage::{PROTOS, Stage, TARGET, service, vip};
use anyhow::Result;
use lb_tests::load::{Held, HeldTcp, HeldUdp, Kind, Requests};
use lb_tests::packet::{Packet, Tcp, Transport};
use lb_tests::world::{Endpoint, Family, Layout, Tap};
use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// So many that the chance of one of three backends having none of them is 3e-12.
const HELD: usize = 65;
/// A lost SYN is sent again after 1 s.
const AT_ONCE: Duration = Duration::from_millis(900);
/// A lost segment is sent again after 200 ms.
const SECOND_TRY: Duration = Duration::from_millis(300);

fn removal_layouts() -> [Layout; 2] {
    [Layout::routed(), Layout::bridge(false, true)]
}

#[test]
fn a_removed_udp_backend_gets_no_further_packet() -> Result<()> {
    for layout in removal_layouts() {
        let stage = Stage::new(layout)?;
        let web = service("web", 10);
        for family in Family::ALL {
            stage.apply(&web.clone().endpoints(stage.backends(3)))?;
            let mut held = HeldUdp::open(stage.client(), vip(family, 10), HELD)?;
            assert!(held.ping().is_empty(), "all are assured");
            let of_b3 = held.backends()["b3"];
            stage.apply(&web.clone().endpoints(stage.backends(2)))?;
            let tap = Tap::on(stage.world.backend(3))?;
            stage.echo("b3").forget();
            for socket in &mut held.sockets {
                let before = socket.backend.clone();
                let port = socket.local.port();
                socket.backend = socket.ask()?;
                assert_eq!(socket.local.port(), port);
                assert!(socket.backend == before || before == "b3", "{before} > {}", socket.backend);
            }
            assert_eq!(held.backends().get("b3"), None, "{of_b3} sockets were with b3");
            // Each socket stays with its new backend.
            assert!(held.ping().is_empty());
            assert_eq!(tap.count(|packet| packet.to().port() == TARGET), 0);
            assert_eq!(stage.echo("b3").visits(), []);
        }
        assert!(stage.counter("resteered")? > 0);
    }
    Ok(())
}

/// The same if an answer never came, so that the flow is not assured.
#[test]
fn a_removed_udp_backend_that_never_answered_gets_no_further_packet() -> Result<()> {
    let mut stage = Stage::new(Layout::routed())?;
    let web = service("web", 10);
    for family in Family::ALL {
        // No server listens on b3.
        stage.echoes.remove("b3");
        stage.apply(&web.clone().endpoints([stage.world.backend(3)]))?;
        let socket = stage.client().enter(|| std::net::UdpSocket::bind((unspecified(family), 0)))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let tap = Tap::on(stage.world.backend(3))?;
        socket.send_to(b"anyone?", vip(family, 10))?;
        wait_until(|| tap.count(|packet| packet.to().port() == TARGET) == 1, "b3 gets the datagram");
        stage.apply(&web.clone().endpoints([stage.world.backend(1)]))?;
        tap.clear();
        socket.send_to(b"anyone?", vip(family, 10))?;
        let mut answer = [0; 100];
        let (len, from) = socket.recv_from(&mut answer)?;
        assert_eq!((&answer[..len], from), (&b"b1 anyone?"[..], vip(family, 10)));
        assert_eq!(tap.count(|packet| packet.to().port() == TARGET), 0);
    }
    Ok(())
}

fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([0; 4]),
        Family::V6 => IpAddr::from([0; 16]),
    }
}

pub fn wait_until(mut is_so: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_client_of_a_removed_tcp_backend_gets_a_reset_at_its_next_segment() -> Result<()> {
    for layout in removal_layouts() {
        let stage = Stage::new(layout)?;
        let web = service("web", 10);
        for family in Family::ALL {
            stage.apply(&web.clone().endpoints(stage.backends(3)))?;
            let mut held = HeldTcp::open(stage.client(), vip(family, 10), HELD)?;
            assert!(held.ping().is_empty());
            // The client must have sent its delayed ACK, because it is a segment as well.
            sleep(SECOND_TRY);
            stage.apply(&web.clone().endpoints(stage.backends(2)))?;
            let at_backend = Tap::on(stage.world.backend(3))?;
            let at_client = Tap::on(stage.world.client())?;
            let of_b3 = held.backends()["b3"];
            let mut reset = Vec::new();
            for connection in &mut held.connections {
                match connection.ping() {
                    Ok(()) => assert_ne!(connection.backend, "b3"),
                    Err(failure) => {
                        assert_eq!((&failure.kind, connection.backend.as_str()), (&Kind::Reset, "b3"));
                        reset.push(connection.local.port());
                    }
                }
            }
            assert_eq!(reset.len(), of_b3);
            sleep(SECOND_TRY);
            for port in reset {
                let sent = at_client.count(|packet| packet.from().port() == port && has_payload(packet));
                assert_eq!(sent, 1, "the first segment is answered");
            }
            // If the backend lives on, it receives only the end of each connection.
            let told = at_backend.count(|packet| packet.to().port() == TARGET && is_reset(packet));
            let all = at_backend.count(|packet| packet.to().port() == TARGET);
            assert_eq!((told, all), (of_b3, of_b3));
            assert_eq!(stage.echo("b3").open(), 0, "the server of b3 has closed its connections");
            // The client's side of the connection has ended as well: its port is free, and a new connection works.
            Requests::tcp(vip(family, 10)).count(20).run(stage.client()).assert_clean();
        }
        assert!(stage.counter("reset_backend_gone")? > 0);
    }
    Ok(())
}

fn is_reset(packet: &Packet) -> bool {
    matches!(&packet.transport, Transport::Tcp(tcp) if tcp.flags & Tcp::RST != 0)
}

fn has_payload(packet: &Packet) -> bool {
    matches!(&packet.transport, Transport::Tcp(tcp) if !tcp.payload.is_empty())
}

#[test]
fn an_endpoint_that_only_terminates_keeps_its_flows_and_gets_no_new_ones() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let web = service("web", 10);
    for family in Family::ALL {
        stage.apply(&web.clone().endpoints(stage.backends(3)))?;
        let mut tcp = HeldTcp::open(stage.client(), vip(family, 10), HELD)?;
        let mut udp = HeldUdp::open(stage.client(), vip(family, 10), HELD)?;
        assert!(tcp.backends().contains_key("b3") && udp.backends().contains_key("b3"));
        let mut endpoints: Vec<Endpoint> = stage.backends(3).iter().map(Endpoint::from).collect();
        endpoints[2] = endpoints[2].clone().terminating();
        stage.apply(&web.clone().endpoints(endpoints))?;
        for proto in PROTOS {
            let report = Requests::new(proto, vip(family, 10)).count(300).run(stage.client());
            report.assert_clean();
            assert!(!report.answers.contains_key("b3"), "{report}");
        }
        for _ in 0..2 {
            let failures = [tcp.ping(), udp.ping()].concat();
            assert!(failures.is_empty(), "{} failures, the first: {}", failures.len(), failures[0]);
            sleep(Duration::from_millis(1_050));
        }
        // Finally the pod is removed.
        stage.apply(&web.clone().endpoints(stage.backends(2)))?;
        let kinds: Vec<Kind> = tcp.ping().into_iter().map(|failure| failure.kind).collect();
        assert_eq!(kinds, vec![Kind::Reset; tcp.backends()["b3"]]);
        udp.ping();
        assert_eq!(udp.backends().get("b3"), None);
    }
    Ok(())
}

#[test]
fn a_service_without_endpoints_refuses_tcp_at_once() -> Result<()> {
    for layout in removal_layouts() {
        let stage = Stage::new(layout)?;
        let web = service("web", 10);
        for family in Family::ALL {
            stage.apply(&web)?;
            let began = Instant::now();
            let report = Requests::tcp(vip(family, 10)).count(20).workers(1).run(stage.client());
            assert_eq!(report.kinds().into_iter().collect::<Vec<_>>(), [(Kind::Refused, 20)], "{report}");
            assert!(began.elapsed() < AT_ONCE, "refused, but after {:?}", began.elapsed());
            stage.apply(&web.clone().endpoints(stage.backends(1)))?;
            Requests::tcp(vip(family, 10)).count(20).run(stage.client()).assert_clean();
        }
    }
    Ok(())
}

/// An address that returns is a new backend: the flows of the old one are over.
#[test]
fn a_backend_that_returns_takes_new_connections_only() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let web = service("web", 10);
    for family in Family::ALL {
        stage.apply(&web.clone().endpoints(stage.backends(1)))?;
        let mut held = HeldTcp::open(stage.client(), vip(family, 10), 10)?;
        stage.apply(&web)?;
        stage.apply(&web.clone().endpoints(stage.backends(1)))?;
        let kinds: Vec<Kind> = held.ping().into_iter().map(|failure| failure.kind).collect();
        assert_eq!(kinds, vec![Kind::Reset; 10]);
        Requests::tcp(vip(family, 10)).count(50).run(stage.client()).assert_clean();
    }
    Ok(())
}
