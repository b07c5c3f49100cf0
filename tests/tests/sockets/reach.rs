//! Which Services processes of the host reach, through which sockets, and what the processes see.

use anyhow::{Context, Result, ensure};
use lb_tests::world::Family;
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use crate::client::{LIMIT, any, ask, connect, hear, udp};
use crate::stage::{HOST, NODE_PORT, Stage, Web, balancer, external_ip, node_ports, vip};

#[test]
fn a_process_of_the_host_connects_to_a_service_and_sees_the_service_as_its_peer() -> Result<()> {
    let stage = Stage::new("host", &Web::on([1, 2]))?;
    for family in Family::ALL {
        let to = vip(family);
        stage.node(|| {
            let (mut stream, name) = connect(to).context("TCP")?;
            ensure!(["b1", "b2"].contains(&&*name), "{name} answered");
            ensure!(stream.peer_addr()? == to, "the peer is {}", stream.peer_addr()?);
            stream.write_all(b"x")?;
            let mut echo = [0];
            stream.read_exact(&mut echo)?;
            ensure!(echo == *b"x");

            let socket = udp(any(family))?;
            let (first, from) = ask(&socket, to).context("UDP without connect")?;
            ensure!(from == to, "the answer comes from {from}");
            for _ in 0..20 {
                let (name, from) = ask(&socket, to)?;
                ensure!(
                    (&name, from) == (&first, to),
                    "{name} at {from} after {first}: a socket must keep its backend"
                );
            }
            socket.connect(to)?;
            ensure!(socket.peer_addr()? == to, "the peer is {}", socket.peer_addr()?);
            socket.send(b"hello")?;
            let (_, from) = hear(&socket).context("UDP after connect")?;
            ensure!(from == to, "the answer comes from {from}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn an_ipv6_socket_reaches_an_ipv4_service_by_its_mapped_address() -> Result<()> {
    let stage = Stage::new("host", &Web::on([1]))?;
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, NODE_PORT));
    for to in [vip(Family::V4), loopback] {
        let SocketAddr::V4(v4) = to else { unreachable!("an IPv4 address") };
        let mapped = SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port());
        stage.node(|| {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
            socket.set_only_v6(false)?;
            socket.connect_timeout(&SockAddr::from(mapped), LIMIT)?;
            let peer = socket.peer_addr()?.as_socket();
            ensure!(peer == Some(mapped), "the peer is {peer:?}");

            let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
            socket.set_only_v6(false)?;
            let socket: UdpSocket = socket.into();
            socket.set_read_timeout(Some(LIMIT))?;
            let (_, from) = ask(&socket, mapped)?;
            ensure!(from == mapped, "the answer comes from {from}");
            socket.connect(mapped)?;
            ensure!(socket.peer_addr()? == mapped, "the peer is {}", socket.peer_addr()?);
            socket.send(b"hello")?;
            let (_, from) = hear(&socket)?;
            ensure!(from == mapped, "the answer comes from {from}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Also with `externalTrafficPolicy: Local` and no endpoint on this node, because the host is inside the cluster.
#[test]
fn every_kind_of_frontend_answers_and_an_external_local_policy_uses_the_cluster_set() -> Result<()> {
    let elsewhere = Web { endpoints: vec![(1, "elsewhere")], ..Web::default() };
    let stage = Stage::new("host", &elsewhere)?;
    for family in Family::ALL {
        let others = [vip(family), balancer(family), external_ip(family)];
        for to in node_ports(family).into_iter().chain(others) {
            stage.node(|| {
                let (stream, name) = connect(to).with_context(|| format!("TCP to {to}"))?;
                ensure!(name == "b1" && stream.peer_addr()? == to, "{name} at {}", stream.peer_addr()?);
                let (name, from) = ask(&udp(any(family))?, to).with_context(|| format!("UDP to {to}"))?;
                ensure!(name == "b1" && from == to, "{name} at {from}");
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// The only endpoint is a pod on the network of the host, so nothing leaves the node.
#[test]
fn a_process_of_the_host_reaches_the_host_itself_by_every_kind_of_frontend() -> Result<()> {
    let stage = Stage::new("host", &Web::on([HOST]))?;
    for family in Family::ALL {
        let others = [vip(family), balancer(family), external_ip(family)];
        for to in node_ports(family).into_iter().chain(others) {
            stage.node(|| {
                let (stream, name) = connect(to).with_context(|| format!("TCP to {to}"))?;
                ensure!(name == "host" && stream.peer_addr()? == to, "{name} at {}", stream.peer_addr()?);
                let (name, from) = ask(&udp(any(family))?, to).with_context(|| format!("UDP to {to}"))?;
                ensure!(name == "host" && from == to, "{name} at {from}");
                Ok(())
            })?;
        }
    }
    Ok(())
}

#[test]
fn a_local_internal_policy_holds_for_the_cluster_ip_and_for_nothing_else() -> Result<()> {
    let here = Web { internal_local: true, ..Web::on([1]) };
    let web = Web { endpoints: [here.endpoints.clone(), vec![(2, "elsewhere")]].concat(), ..here };
    let stage = Stage::new("host", &web)?;
    let names = |to: SocketAddr| -> Result<BTreeSet<String>> {
        (0..40).map(|_| stage.node(|| Ok(connect(to)?.1))).collect()
    };
    for family in Family::ALL {
        ensure!(names(vip(family))? == BTreeSet::from(["b1".to_owned()]));
        // Only one of the two answers all forty connections once in 2^39 runs.
        ensure!(names(balancer(family))?.len() == 2);
    }
    Ok(())
}

#[test]
fn the_same_source_port_to_the_service_and_to_its_backend_is_refused_and_never_mixed_up() -> Result<()> {
    let stage = Stage::new("host", &Web::on([1]))?;
    let backend = SocketAddr::from((stage.world.backend(1).v4, 8_080));
    stage.node(|| {
        let (first, _) = connect(vip(Family::V4))?;
        let local = first.local_addr()?;
        let second = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        second.set_reuse_address(true)?;
        let bound = second.bind(&SockAddr::from(local));
        let outcome = bound.and_then(|()| second.connect_timeout(&SockAddr::from(backend), LIMIT));
        ensure!(outcome.is_err(), "two sockets of the host have the connection {local} -> {backend}");
        Ok(())
    })
}

#[test]
fn a_socket_bound_to_loopback_is_left_alone() -> Result<()> {
    let stage = Stage::new("host", &Web::on([1]))?;
    stage.node(|| {
        let socket = udp(Ipv4Addr::LOCALHOST.into())?;
        ensure!(socket.send_to(b"x", vip(Family::V4)).is_err(), "no packet leaves from a loopback address");
        Ok(())
    })?;
    ensure!(stage.counter("socket_translated")? == 0);
    Ok(())
}

#[test]
fn with_affinity_the_node_is_one_client() -> Result<()> {
    let stage = Stage::new("host", &Web { affinity: Some(60), ..Web::on([1, 2]) })?;
    let names = || -> Result<BTreeSet<String>> {
        (0..40).map(|_| stage.node(|| Ok(connect(vip(Family::V4))?.1))).collect()
    };
    let first = names()?;
    ensure!(first.len() == 1, "{first:?}");
    // The remembered backend is not in the new set, so another one replaces it.
    let left: usize = if first.contains("b1") { 2 } else { 1 };
    stage.apply(&Web { affinity: Some(60), ..Web::on([left]) })?;
    ensure!(names()? == BTreeSet::from([format!("b{left}")]));
    stage.apply(&Web::on([1, 2]))?;
    ensure!(names()?.len() == 2, "the affinity is switched off");
    Ok(())
}

#[test]
fn pods_are_translated_at_the_socket_only_where_asked_and_keep_their_own_loopback() -> Result<()> {
    for (mode, expected) in [("host", 0), ("all", 2)] {
        let stage = Stage::new(mode, &Web::on([1]))?;
        let pod = &stage.world.client().netns;
        for to in [vip(Family::V4), node_ports(Family::V4)[3]] {
            let name = pod.enter(|| connect(to))?.1;
            ensure!(name == "b1");
        }
        ensure!(stage.counter("socket_translated")? == expected, "--socket-lb={mode}");
        let own = pod.enter(|| std::net::TcpListener::bind(("127.0.0.1", NODE_PORT)))?;
        let reached = pod.enter(|| std::net::TcpStream::connect(own.local_addr()?)?.peer_addr())?;
        ensure!(reached == own.local_addr()?);
        ensure!(stage.counter("socket_translated")? == expected, "a pod's loopback, --socket-lb={mode}");
    }
    Ok(())
}
