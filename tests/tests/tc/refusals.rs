//! Packets that no endpoint serves: refused at once, dropped, or left alone.

use anyhow::Result;
use lb_common::{Counter, Prefix, Proto, names};
use lb_tests::datapath::{CONTINUE, DROP, Datapath, REDIRECT, service};
use lb_tests::packet::{Packet, Tcp, assert_same, icmp, tcp, udp};
use lb_tests::program::Run;
use lb_userspace::dataplane::load::Constants;
use lb_userspace::desired::ServiceRanges;

use crate::{V4, V6, checked, each_family};

/// Like [`checked`], for a segment that may be trimmed: the kernel then no longer vouches for its checksum
/// (`__skb_trim_rcsum`), but its test run compares the checksum all the same. So only a segment that is not trimmed
/// runs with the check.
pub fn checked_rst(path: &mut Datapath, name: &str, packet: &Packet) -> Result<(i32, Packet)> {
    let tcp = packet.tcp().expect("the packet is a TCP segment");
    if tcp.payload.is_empty() && tcp.options.is_empty() {
        return checked(path, name, packet);
    }
    let outcome = Run::new().packet(path.program(name)?, packet)?;
    Ok((outcome.verdict, outcome.packet()?))
}

/// The RST that answers a segment (RFC 9293 3.5.2).
pub fn expected_rst(sent: &Packet) -> Packet {
    let segment = sent.tcp().expect("the packet is a TCP segment");
    let rst = tcp(sent.to(), sent.from()).macs(sent.eth_dst, sent.eth_src).window(0);
    if segment.flags & Tcp::ACK != 0 {
        rst.rst().seq(segment.ack).acking(0)
    } else {
        let phantom = u32::from(segment.flags & Tcp::SYN != 0) + u32::from(segment.flags & Tcp::FIN != 0);
        let len = segment.payload.len() as u32 + phantom;
        rst.flags(Tcp::RST | Tcp::ACK).seq(0).acking(segment.seq + len)
    }
}

#[test]
fn a_segment_of_an_unknown_connection_is_reset() -> Result<()> {
    each_family(|ends| {
        let mut path = Datapath::new()?;
        path.set([service(Proto::Tcp, ends.vip, &[ends.backend])])?;
        let sent = tcp(ends.client, ends.vip).ack().seq(77).acking(4242);
        for sent in [sent.clone(), sent.clone().payload(vec![7; 900]), sent.tcp_options(3).payload("odd")] {
            for name in [names::POD_INGRESS, names::PORT_INGRESS] {
                let (verdict, out) = checked_rst(&mut path, name, &sent)?;
                assert_eq!(verdict, REDIRECT);
                assert_same(&out, &expected_rst(&sent));
            }
        }
        assert_eq!(path.counter(Counter::ResetUnknownFlow)?, 6);
        // A RST is not answered.
        assert_eq!(path.from_pod(&tcp(ends.client, ends.vip).rst())?.verdict, DROP);
        Ok(())
    })
}

#[test]
fn with_adopt_an_unknown_connection_goes_to_the_kernel() -> Result<()> {
    let mut path = Datapath::with(Constants { adopt: true, ..Constants::default() })?;
    path.set([service(Proto::Tcp, V4.vip, &[V4.backend])])?;
    let sent = tcp(V4.client, V4.vip).ack();
    let outcome = path.from_pod(&sent)?;
    assert_eq!(outcome.verdict, CONTINUE);
    assert_same(&outcome.packet()?, &sent);
    Ok(())
}

#[test]
fn a_service_without_endpoints_refuses_at_once() -> Result<()> {
    each_family(|ends| {
        let mut path = Datapath::new()?;
        path.set([service(Proto::Tcp, ends.vip, &[]), service(Proto::Udp, ends.vip, &[])])?;
        let sent = tcp(ends.client, ends.vip).syn().seq(5).tcp_options(5);
        let (verdict, out) = checked_rst(&mut path, names::POD_INGRESS, &sent)?;
        assert_eq!(verdict, REDIRECT);
        assert_same(&out, &expected_rst(&sent));
        assert_eq!(path.counter(Counter::ResetNoEndpoint)?, 1);
        let sent = udp(ends.client, ends.vip);
        for sent in [sent.clone(), sent.clone().payload("x"), sent.payload(vec![7; 900]).vlan(7)] {
            for name in [names::POD_INGRESS, names::PORT_INGRESS, names::TAP_INGRESS] {
                let outcome = Run::new().packet(path.program(name)?, &sent)?;
                assert_eq!(outcome.verdict, REDIRECT);
                assert_same(&outcome.packet()?, &expected_unreachable(&sent));
            }
        }
        assert_eq!(path.counter(Counter::UnreachableNoEndpoint)?, 9);
        assert!(path.flow_keys()?.is_empty());
        Ok(())
    })
}

/// "Port unreachable" from the address that was asked; it quotes the IP header and eight bytes.
fn expected_unreachable(sent: &Packet) -> Packet {
    let header = if sent.src.is_ipv4() { 20 } else { 40 };
    let (kind, code) = if sent.src.is_ipv4() { (3, 3) } else { (1, 4) };
    let ip = 14 + 4 * sent.vlans.len();
    let quoted = &sent.bytes()[ip..ip + header + 8];
    let error = icmp(sent.dst, sent.src, kind, code).payload(quoted).hops(64);
    sent.vlans.iter().fold(error.macs(sent.eth_dst, sent.eth_src), |error, id| error.vlan(*id))
}

#[test]
fn a_datagram_with_options_is_dropped_where_it_cannot_be_answered() -> Result<()> {
    let mut path = Datapath::new()?;
    path.set([service(Proto::Udp, V4.vip, &[])])?;
    assert_eq!(path.from_pod(&udp(V4.client, V4.vip).payload("x").ipv4_options(1))?.verdict, DROP);
    assert_eq!(path.counter(Counter::DropNoEndpoint)?, 1);
    Ok(())
}

#[test]
fn a_client_that_was_refused_with_a_fixed_port_reaches_the_first_endpoint() -> Result<()> {
    each_family(|ends| {
        let mut path = Datapath::new()?;
        path.set([service(Proto::Udp, ends.vip, &[])])?;
        let sent = udp(ends.client, ends.vip).payload("anyone?");
        assert_eq!(path.from_pod(&sent)?.verdict, REDIRECT);
        path.set([service(Proto::Udp, ends.vip, &[ends.backend])])?;
        assert_same(&path.from_pod(&sent)?.packet()?, &sent.clone().with_dst(ends.backend));
        Ok(())
    })
}

/// The same holds if the Service was deleted and created again while the client sent: nothing that the old Service
/// left blocks the client.
#[test]
fn a_client_of_a_service_that_returns_reaches_it() -> Result<()> {
    each_family(|ends| {
        let mut path = Datapath::new()?;
        let (name, port) = service(Proto::Udp, ends.vip, &[ends.backend]);
        path.set([(name.clone(), port.clone())])?;
        let sent = udp(ends.client, ends.vip).payload("anyone?");
        path.from_pod(&sent)?;
        path.remove(&name)?;
        assert_eq!(path.from_pod(&sent)?.verdict, CONTINUE);
        path.set([(name, port)])?;
        assert_same(&path.from_pod(&sent)?.packet()?, &sent.clone().with_dst(ends.backend));
        Ok(())
    })
}

#[test]
fn a_port_of_a_cluster_ip_that_no_service_has_is_refused() -> Result<()> {
    each_family(|ends| {
        let mut path = Datapath::new()?;
        let (name, port) = service(Proto::Tcp, ends.vip, &[ends.backend]);
        path.set([(name.clone(), port)])?;
        let unknown = ends.vip.replace(":80", ":81");
        for sent in [tcp(ends.client, unknown.as_str()).syn(), tcp(ends.client, unknown.as_str()).ack()] {
            let (verdict, out) = checked_rst(&mut path, names::POD_INGRESS, &sent)?;
            assert_eq!(verdict, REDIRECT);
            assert_same(&out, &expected_rst(&sent));
        }
        // The port number is served for the other protocol only.
        let sent = udp(ends.client, ends.vip).payload("x");
        assert_same(&path.from_pod(&sent)?.packet()?, &expected_unreachable(&sent));
        assert_eq!(path.counter(Counter::ResetUnknownPort)?, 2);
        assert_eq!(path.counter(Counter::UnreachableUnknownPort)?, 1);
        assert!(path.flow_keys()?.is_empty());
        // Without a Service the address belongs to nothing of ours.
        path.remove(&name)?;
        assert_eq!(path.from_pod(&tcp(ends.client, ends.vip).syn())?.verdict, CONTINUE);
        Ok(())
    })
}

#[test]
fn a_ping_to_a_cluster_ip_is_left_alone() -> Result<()> {
    let mut path = Datapath::new()?;
    path.set([service(Proto::Tcp, V4.vip, &[V4.backend])])?;
    let echo = icmp([10, 244, 1, 10].into(), [10, 96, 0, 10].into(), 8, 0);
    assert_eq!(path.from_pod(&echo)?.verdict, CONTINUE);
    Ok(())
}

fn prefix(text: &str) -> Prefix {
    let (ip, len) = text.split_once('/').expect("a prefix has an address and a length");
    Prefix::new(ip.parse().expect("an address"), len.parse().expect("a length"))
}

#[test]
fn an_address_of_the_service_range_that_no_service_has_is_dropped() -> Result<()> {
    each_family(|ends| {
        let mut path = Datapath::new()?;
        let range = if ends.client == V6.client { "fd00:10:96::/112" } else { "10.96.0.0/12" };
        let other = ends.other_vip.parse::<std::net::SocketAddr>()?;
        path.set([service(Proto::Tcp, ends.vip, &[ends.backend])])?;
        path.set_service_ranges(ServiceRanges { cidrs: [prefix(range)].into(), ..ServiceRanges::default() })?;
        let strangers = [tcp(ends.client, other).syn(), udp(ends.client, other)];
        for sent in &strangers {
            assert_eq!(path.from_pod(sent)?.verdict, DROP);
        }
        assert_eq!(path.counter(Counter::DropUnallocated)?, 2);
        // A connection through a Service that is gone ends.
        let segment = tcp(ends.client, other).ack().acking(99);
        let (verdict, out) = checked_rst(&mut path, names::POD_INGRESS, &segment)?;
        assert_eq!(verdict, REDIRECT);
        assert_same(&out, &expected_rst(&segment));
        assert_eq!(path.counter(Counter::ResetUnknownFlow)?, 1);
        assert!(path.flow_keys()?.is_empty());
        let syn = tcp(ends.client, ends.vip).syn();
        assert_same(&path.from_pod(&syn)?.packet()?, &syn.clone().with_dst(ends.backend));

        // The address belongs to another proxy.
        path.set_service_ranges(ServiceRanges {
            cidrs: [prefix(range)].into(),
            others: [other.ip().into()].into(),
        })?;
        for sent in &strangers {
            assert_same(&path.from_pod(sent)?.packet()?, sent);
        }
        // The range is no longer known.
        path.set_service_ranges(ServiceRanges::default())?;
        assert_eq!(path.from_pod(&strangers[0])?.verdict, CONTINUE);
        Ok(())
    })
}
