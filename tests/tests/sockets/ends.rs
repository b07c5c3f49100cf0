//! Sockets whose backend is gone end with an error, and no other sockets do.

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use lb_common::{PeerSide, Socket, SocketKey, names};
use lb_tests::world::{Family, Netns};
use lb_userspace::dataplane::pins::Pins;
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::client::{LIMIT, any, ask, connect, hear, udp};
use crate::stage::{Stage, Web, vip};

/// Enough that each of two backends has some: one backend gets all of them once in 2^23 runs.
const SOCKETS: usize = 24;
/// The agent looks twice for sockets whose backend is gone; after this time it has.
const LATER: Duration = Duration::from_millis(1_500);

/// Connected sockets of both protocols, each with the name of its backend.
struct Held {
    tcp: Vec<(TcpStream, String)>,
    udp: Vec<(UdpSocket, String)>,
}

impl Held {
    fn open(netns: &Netns, to: SocketAddr) -> Result<Self> {
        netns.enter(|| {
            let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
            let mut held = Self { tcp: Vec::new(), udp: Vec::new() };
            for _ in 0..SOCKETS {
                held.tcp.push(connect(to)?);
                let socket = udp(any(family))?;
                socket.connect(to)?;
                socket.send(b"hello")?;
                let (name, _) = hear(&socket)?;
                held.udp.push((socket, name));
            }
            for names in [held.tcp_names(), held.udp_names()] {
                ensure!(names.len() == 2, "{names:?}");
            }
            Ok(held)
        })
    }

    fn tcp_names(&self) -> BTreeSet<&str> {
        self.tcp.iter().map(|(_, name)| name.as_str()).collect()
    }

    fn udp_names(&self) -> BTreeSet<&str> {
        self.udp.iter().map(|(_, name)| name.as_str()).collect()
    }

    /// Asserts that the sockets of these backends fail and no others do.
    fn assert_ended(mut self, netns: &Netns, ended: &[&str]) -> Result<()> {
        netns.enter(|| {
            for (stream, name) in self.tcp.iter_mut().filter(|(_, name)| ended.contains(&&**name)) {
                is_ended(|| talk(stream)).with_context(|| format!("TCP to {name}"))?;
            }
            for (socket, name) in self.udp.iter().filter(|(_, name)| ended.contains(&&**name)) {
                is_ended(|| chat(socket)).with_context(|| format!("UDP to {name}"))?;
            }
            std::thread::sleep(LATER);
            for (stream, name) in self.tcp.iter_mut().filter(|(_, name)| !ended.contains(&&**name)) {
                talk(stream).with_context(|| format!("TCP to {name}"))?;
            }
            for (socket, name) in self.udp.iter().filter(|(_, name)| !ended.contains(&&**name)) {
                chat(socket).with_context(|| format!("UDP to {name}"))?;
            }
            Ok(())
        })
    }
}

fn talk(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

fn chat(socket: &UdpSocket) -> std::io::Result<()> {
    socket.send(b"hello")?;
    hear(socket).map(drop)
}

/// Asserts that a socket fails within the limit.
fn is_ended(mut exchange: impl FnMut() -> std::io::Result<()>) -> Result<()> {
    let begin = Instant::now();
    loop {
        match exchange() {
            Ok(()) => ensure!(begin.elapsed() < LIMIT, "the socket still works after {LIMIT:?}"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("neither an answer nor an error within {LIMIT:?}")
            }
            Err(_) => return Ok(()),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn when_a_backend_is_removed_its_sockets_end_with_an_error_and_no_others() -> Result<()> {
    let stage = Stage::new("host", &Web::on([1, 2]))?;
    for family in Family::ALL {
        let held = Held::open(stage.world.node(), vip(family))?;
        stage.apply(&Web::on([1]))?;
        held.assert_ended(stage.world.node(), &["b2"])?;
        stage.apply(&Web::on([1, 2]))?;
    }
    Ok(())
}

/// The same in a mode in which pods are also translated at their sockets: sockets of the node and of two pods at
/// once.
#[test]
fn sockets_of_pods_end_like_those_of_the_host() -> Result<()> {
    let stage = Stage::new("all", &Web::on([1, 2]))?;
    let (client, backend) = (&stage.world.client().netns, &stage.world.backend(1).netns);
    for family in Family::ALL {
        let places = [client, backend, stage.world.node()];
        let held = places.map(|netns| Held::open(netns, vip(family)));
        stage.apply(&Web::on([1]))?;
        for (netns, held) in places.into_iter().zip(held) {
            held?.assert_ended(netns, &["b2"])?;
        }
        stage.apply(&Web::on([1, 2]))?;
    }
    Ok(())
}

#[test]
fn a_process_that_waits_for_an_answer_gets_an_error_without_sending() -> Result<()> {
    let stage = Stage::new("host", &Web::on([1]))?;
    let mut stream = stage.node(|| Ok(connect(vip(Family::V4))?))?.0;
    let socket = stage.node(|| {
        let socket = udp(any(Family::V4))?;
        socket.connect(vip(Family::V4))?;
        Ok(socket)
    })?;
    stage.apply(&Web::default())?;
    let aborted = Some(ErrorKind::ConnectionAborted);
    ensure!(stream.read(&mut [0]).err().map(|error| error.kind()) == aborted);
    ensure!(socket.recv(&mut [0; 64]).err().map(|error| error.kind()) == aborted);
    Ok(())
}

#[test]
fn when_a_service_is_deleted_its_sockets_end_and_those_to_the_pod_itself_continue() -> Result<()> {
    let stage = Stage::new("host", &Web::on([1, 2]))?;
    let pod = SocketAddr::from((stage.world.backend(1).v4, 8_080));
    let held = Held::open(stage.world.node(), vip(Family::V4))?;
    let mut direct = stage.node(|| Ok(connect(pod)?))?.0;
    stage.delete()?;
    held.assert_ended(stage.world.node(), &["b1", "b2"])?;
    direct.write_all(b"x")?;
    direct.read_exact(&mut [0])?;
    Ok(())
}

#[test]
fn sockets_also_end_when_the_backend_went_away_while_no_agent_ran() -> Result<()> {
    let mut stage = Stage::new("host", &Web::on([1, 2]))?;
    let held = Held::open(stage.world.node(), vip(Family::V4))?;
    stage.agent.kill()?;
    stage.write(&Web::on([2]))?;
    stage.agent.start_again()?;
    held.assert_ended(stage.world.node(), &["b1"])
}

#[test]
fn a_socket_that_has_another_peer_by_now_continues() -> Result<()> {
    let stage = Stage::new("host", &Web::on([1]))?;
    let socket = stage.node(|| {
        let socket = udp(any(Family::V4))?;
        socket.connect(vip(Family::V4))?;
        Ok(socket)
    })?;
    let pod = SocketAddr::from((stage.world.backend(2).v4, 8_080));
    stage.node(|| Ok(socket.connect(pod)?))?;
    stage.apply(&Web::default())?;
    std::thread::sleep(LATER);
    Ok(chat(&socket)?)
}

/// The socket is connected to the same pod by the pod's own address: its peer name and its end no longer belong to
/// the Service.
#[test]
fn a_socket_that_is_connected_to_the_pod_itself_by_now_continues() -> Result<()> {
    let stage = Stage::new("host", &Web::on([1]))?;
    let pod = SocketAddr::from((stage.world.backend(1).v4, 8_080));
    let socket = stage.node(|| {
        let socket = udp(any(Family::V4))?;
        socket.connect(vip(Family::V4))?;
        ensure!(socket.peer_addr()? == vip(Family::V4));
        socket.connect(pod)?;
        ensure!(socket.peer_addr()? == pod, "{}", socket.peer_addr()?);
        Ok(socket)
    })?;
    stage.apply(&Web::default())?;
    std::thread::sleep(LATER);
    Ok(chat(&socket)?)
}

/// The table of sockets has a fixed size. The entry that tells from whom an answer comes is written again if it was
/// evicted while the entry of the socket's own choice was not.
#[test]
fn a_datagram_socket_whose_peer_entry_was_evicted_sees_the_service_again() -> Result<()> {
    let stage = Stage::new("host", &Web::on([1]))?;
    for family in Family::ALL {
        let socket = stage.node(|| Ok(udp(any(family))?))?;
        let asked = || stage.node(|| Ok(ask(&socket, vip(family))?.1));
        ensure!(asked()? == vip(family));
        let table = MapData::from_pin(Pins::new(&stage.world.folder().pins()).map(names::SOCKETS))?;
        let mut table: HashMap<_, SocketKey, Socket> = Map::LruHashMap(table).try_into()?;
        let keys = table.keys().collect::<Result<Vec<_>, _>>()?;
        for key in keys.iter().filter(|key| key.side == PeerSide::Backend.number()) {
            table.remove(key)?;
        }
        ensure!(asked()? == vip(family), "{} answers", asked()?);
    }
    Ok(())
}

#[test]
fn a_datagram_socket_without_a_peer_moves_to_another_backend() -> Result<()> {
    let stage = Stage::new("host", &Web::on([1, 2]))?;
    let socket = stage.node(|| Ok(udp(any(Family::V4))?))?;
    let to = vip(Family::V4);
    let (first, _) = stage.node(|| Ok(ask(&socket, to)?))?;
    let left: usize = if first == "b1" { 2 } else { 1 };
    stage.apply(&Web::on([left]))?;
    let (name, from) = stage.node(|| Ok(ask(&socket, to)?))?;
    ensure!(name == format!("b{left}") && from == to, "{name} at {from}");
    Ok(())
}

#[test]
fn a_backend_that_only_terminates_keeps_its_sockets_and_gets_no_new_ones() -> Result<()> {
    let stage = Stage::new("host", &Web::on([1, 2]))?;
    let held = Held::open(stage.world.node(), vip(Family::V4))?;
    let slices = stage.world.manifests().folder().join("web.yaml");
    let yaml = std::fs::read_to_string(&slices)?;
    let terminating = yaml
        .lines()
        .map(|line| {
            let leaves = [Family::V4, Family::V6]
                .iter()
                .any(|family| line.contains(&format!("\"{}\"", stage.world.backend(2).ip(*family))));
            let conditions = ", conditions: {ready: false, serving: true, terminating: true}}";
            if leaves { line.trim_end_matches('}').to_owned() + conditions } else { line.to_owned() }
        })
        .collect::<Vec<_>>()
        .join("\n");
    stage.world.manifests().write_text("web.yaml", &terminating)?;
    stage.wait_for_endpoints(1)?;
    let names: BTreeSet<String> =
        (0..SOCKETS).map(|_| stage.node(|| Ok(connect(vip(Family::V4))?.1))).collect::<Result<_>>()?;
    ensure!(names == BTreeSet::from(["b1".to_owned()]), "{names:?}");
    held.assert_ended(stage.world.node(), &[])
}
