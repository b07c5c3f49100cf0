//! Packets as sentences, through the real programs: the packets that enter and the packets that leave.

mod ends;
mod frontends;
mod refusals;
mod rings;
mod sctp;
mod sweep;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;
use lb_common::{Counter, FrontendKind, INTEREST_WORDS, Proto, names};
use lb_tests::datapath::{CONTINUE, DROP, Datapath, REDIRECT, also_on, service};
use lb_tests::packet::{Extension, Mac, Packet, Transport, assert_same, icmp, tcp, udp};
use lb_tests::program::Run;
use refusals::{checked_rst, expected_rst};
use rings::stay_on_one_cpu;

/// The addresses of a test, in one family.
struct Ends {
    client: &'static str,
    vip: &'static str,
    other_vip: &'static str,
    backend: &'static str,
    second: &'static str,
}

const V4: Ends = Ends {
    client: "10.244.1.10:40000",
    vip: "10.96.0.10:80",
    other_vip: "10.96.0.20:81",
    backend: "10.244.1.11:8080",
    second: "10.244.1.12:8080",
};
const V6: Ends = Ends {
    client: "[fd00:10:244:1::10]:40000",
    vip: "[fd00:10:96::10]:80",
    other_vip: "[fd00:10:96::20]:81",
    backend: "[fd00:10:244:1::11]:8080",
    second: "[fd00:10:244:1::12]:8080",
};

fn each_family(test: impl Fn(&Ends) -> Result<()>) -> Result<()> {
    test(&V4)?;
    test(&V6)
}

fn checked(path: &mut Datapath, name: &str, packet: &Packet) -> Result<(i32, Packet)> {
    // Covers both kinds of checksum that a real frame may have.
    let complete = Run::new().checksum_complete().packet(path.program(name)?, packet)?;
    Ok((complete.verdict, complete.packet()?))
}

/// The sequence numbers with which client and backend begin.
const CLIENT_BEGINS: u32 = 1_000;
const BACKEND_BEGINS: u32 = 5_000;

/// A segment of the client after the handshake, and one of the backend; with an ACK.
fn segments(ends: &Ends) -> [Packet; 2] {
    let (client, backend) = (CLIENT_BEGINS + 1, BACKEND_BEGINS + 1);
    [
        tcp(ends.client, ends.vip).seq(client).acking(backend).ack(),
        tcp(ends.backend, ends.client).seq(backend).acking(client).ack(),
    ]
}

fn handshake(path: &mut Datapath, ends: &Ends) -> Result<()> {
    let [from_client, from_backend] = segments(ends);
    path.from_pod(&from_client.clone().seq(CLIENT_BEGINS).acking(0).syn())?;
    path.to_pod(&from_backend.seq(BACKEND_BEGINS).syn_ack())?;
    path.from_pod(&from_client)?;
    Ok(())
}

#[test]
fn a_syn_to_a_service_goes_to_its_backend_and_the_reply_comes_from_the_vip() -> Result<()> {
    each_family(|ends| {
        let mut path = Datapath::new()?;
        path.set([service(Proto::Tcp, ends.vip, &[ends.backend])])?;
        for data in ["", "x", "a longer payload"] {
            let sent = tcp(ends.client, ends.vip).syn().payload(data);
            let (verdict, out) = checked(&mut path, names::POD_INGRESS, &sent)?;
            assert_eq!(verdict, CONTINUE);
            assert_same(&out, &sent.clone().with_dst(ends.backend));
            let reply = tcp(ends.backend, ends.client).syn_ack().payload(data);
            let (verdict, out) = checked(&mut path, names::POD_EGRESS, &reply)?;
            assert_eq!(verdict, CONTINUE);
            assert_same(&out, &reply.clone().with_src(ends.vip));
        }
        assert_eq!(path.counter(Counter::FlowCreated)?, 1);
        Ok(())
    })
}

#[test]
fn a_datagram_to_a_service_goes_to_its_backend_and_the_reply_comes_from_the_vip() -> Result<()> {
    each_family(|ends| {
        let mut path = Datapath::new()?;
        path.set([service(Proto::Udp, ends.vip, &[ends.backend])])?;
        let sent = udp(ends.client, ends.vip).payload("question");
        let (_, out) = checked(&mut path, names::POD_INGRESS, &sent)?;
        assert_same(&out, &sent.clone().with_dst(ends.backend));
        let reply = udp(ends.backend, ends.client).payload("answer");
        let (_, out) = checked(&mut path, names::POD_EGRESS, &reply)?;
        assert_same(&out, &reply.clone().with_src(ends.vip));
        let flows = path.flows()?;
        assert_eq!((flows.len(), flows[0].phase), (1, "assured"));
        Ok(())
    })
}

#[test]
fn a_datagram_without_a_checksum_stays_without() -> Result<()> {
    let mut path = Datapath::new()?;
    path.set([service(Proto::Udp, V4.vip, &[V4.backend])])?;
    let sent = udp(V4.client, V4.vip).payload("question").without_checksum();
    let (_, out) = checked(&mut path, names::POD_INGRESS, &sent)?;
    assert_same(&out, &sent.clone().with_dst(V4.backend));
    Ok(())
}

#[test]
fn tags_options_and_extension_headers_are_followed() -> Result<()> {
    let many = [Extension::HOP_BY_HOP, Extension::DESTINATION, Extension::ROUTING, Extension::DESTINATION];
    for (ends, dress) in [
        (&V4, (|p: Packet| p.vlan(7)) as fn(Packet) -> Packet),
        (&V4, |p| p.vlan(5).vlan(7)),
        (&V4, |p| p.ipv4_options(1)),
        (&V4, |p| p.vlan(5).ipv4_options(10)),
        (&V6, |p| p.vlan(7)),
        (&V6, |p| p.ext_headers(&[Extension::HOP_BY_HOP])),
    ] {
        let mut path = Datapath::new()?;
        path.set([service(Proto::Tcp, ends.vip, &[ends.backend])])?;
        let sent = dress(tcp(ends.client, ends.vip).syn().tcp_options(5));
        let (verdict, out) = checked(&mut path, names::POD_INGRESS, &sent)?;
        assert_eq!(verdict, CONTINUE);
        assert_same(&out, &sent.clone().with_dst(ends.backend));
        let reply = dress(tcp(ends.backend, ends.client).syn_ack());
        let (_, out) = checked(&mut path, names::POD_EGRESS, &reply)?;
        assert_same(&out, &reply.clone().with_src(ends.vip));
    }
    let mut path = Datapath::new()?;
    path.set([service(Proto::Udp, V6.vip, &[V6.backend])])?;
    let sent = udp(V6.client, V6.vip).payload("q").ext_headers(&many);
    assert_same(&path.from_pod(&sent)?.packet()?, &sent.clone().with_dst(V6.backend));
    Ok(())
}

#[test]
fn what_is_too_deep_or_no_transport_passes_untouched() -> Result<()> {
    let mut path = Datapath::new()?;
    path.set([service(Proto::Tcp, V4.vip, &[V4.backend]), service(Proto::Tcp, V6.vip, &[V6.backend])])?;
    let deep = tcp(V6.client, V6.vip).syn().ext_headers(&[Extension::DESTINATION; 7]);
    let tagged = tcp(V4.client, V4.vip).syn().vlan(1).vlan(2).vlan(3);
    let echo = icmp([10, 244, 1, 10].into(), [10, 96, 0, 10].into(), 8, 0);
    for packet in [deep, tagged, echo] {
        let outcome = path.from_pod(&packet)?;
        assert_eq!(outcome.verdict, CONTINUE);
        assert_same(&outcome.packet()?, &packet);
    }
    assert_eq!(path.counter(Counter::PassTooDeep)?, 2);
    // IPv4-mapped addresses must not appear on the wire and are not treated as IPv4.
    let mapped = tcp("[::ffff:10.244.1.10]:40000", "[::ffff:10.96.0.10]:80").syn();
    assert_eq!(path.from_pod(&mapped)?.frame, mapped.bytes());
    assert!(path.flow_keys()?.is_empty());
    Ok(())
}

#[test]
fn fragments_pass_untouched_and_the_first_is_counted() -> Result<()> {
    each_family(|ends| {
        let mut path = Datapath::new()?;
        path.set([service(Proto::Udp, ends.vip, &[ends.backend])])?;
        for piece in udp(ends.client, ends.vip).payload(vec![7; 3000]).fragments(9, 1200) {
            let outcome = path.from_pod(&piece)?;
            assert_eq!(outcome.verdict, CONTINUE);
            assert_same(&outcome.packet()?, &piece);
        }
        assert_eq!(path.counter(Counter::PassFragment)?, 1);
        assert!(path.flow_keys()?.is_empty());
        Ok(())
    })
}

#[test]
fn truncated_frames_pass_and_never_trap() -> Result<()> {
    let mut path = Datapath::new()?;
    path.set([service(Proto::Tcp, V4.vip, &[V4.backend]), service(Proto::Tcp, V6.vip, &[V6.backend])])?;
    for whole in [tcp(V4.client, V4.vip).syn().bytes(), tcp(V6.client, V6.vip).syn().vlan(3).bytes()] {
        for len in 14..whole.len() {
            // The kernel itself refuses some lengths.
            if let Ok(outcome) = Run::new().frame(path.program(names::POD_INGRESS)?, &whole[..len]) {
                assert_eq!(outcome.verdict, CONTINUE, "{len} bytes");
                assert_eq!(outcome.frame, &whole[..len]);
            }
        }
    }
    Ok(())
}

#[test]
fn not_ours_is_left_alone() -> Result<()> {
    each_family(|ends| {
        let mut path = Datapath::new()?;
        path.set([service(Proto::Tcp, ends.vip, &[ends.backend])])?;
        // The packets go to another address, or come back from the backend.
        for packet in [
            tcp(ends.client, ends.other_vip).syn(),
            udp(ends.client, ends.other_vip).payload("x"),
            tcp(ends.backend, ends.client).ack(),
        ] {
            let outcome = path.from_pod(&packet)?;
            assert_eq!(outcome.verdict, CONTINUE);
            assert_same(&outcome.packet()?, &packet);
        }
        assert!(path.flow_keys()?.is_empty());
        Ok(())
    })
}

#[test]
fn a_repeated_syn_keeps_its_backend_and_is_counted() -> Result<()> {
    let mut path = Datapath::new()?;
    path.set([service(Proto::Tcp, V4.vip, &[V4.backend, V4.second])])?;
    let syn = tcp(V4.client, V4.vip).syn();
    let first = path.from_pod(&syn)?.packet()?.to();
    for _ in 0..20 {
        assert_eq!(path.from_pod(&syn)?.packet()?.to(), first);
    }
    assert_eq!(path.flows()?[0].syn_count, 21);
    assert_eq!(path.counter(Counter::FlowCreated)?, 1);
    Ok(())
}

#[test]
fn tcp_to_a_removed_backend_is_reset_and_a_syn_starts_anew() -> Result<()> {
    each_family(|ends| {
        let mut path = Datapath::new()?;
        path.set([service(Proto::Tcp, ends.vip, &[ends.backend])])?;
        handshake(&mut path, ends)?;
        path.set([service(Proto::Tcp, ends.vip, &[ends.second])])?;
        let sent = tcp(ends.client, ends.vip).ack().acking(99).payload("more");
        let (verdict, out) = checked_rst(&mut path, names::POD_INGRESS, &sent)?;
        assert_eq!(verdict, REDIRECT);
        assert_same(&out, &expected_rst(&sent));
        assert_eq!(path.counter(Counter::ResetBackendGone)?, 1);
        assert!(path.flow_keys()?.is_empty());
        // The same with a segment that is not trimmed, so that the kernel also checks the checksum.
        let syn = tcp(ends.client, ends.vip).syn();
        path.from_pod(&syn)?;
        path.set([service(Proto::Tcp, ends.vip, &[ends.backend])])?;
        let sent = tcp(ends.client, ends.vip).ack().acking(99);
        assert_same(&checked(&mut path, names::POD_INGRESS, &sent)?.1, &expected_rst(&sent));
        path.set([service(Proto::Tcp, ends.vip, &[ends.second])])?;
        let syn = tcp(ends.client, ends.vip).syn();
        assert_same(&path.from_pod(&syn)?.packet()?, &syn.clone().with_dst(ends.second));
        Ok(())
    })
}

#[test]
fn udp_to_a_removed_backend_moves_to_another() -> Result<()> {
    each_family(|ends| {
        for answered in [false, true] {
            let mut path = Datapath::new()?;
            path.set([service(Proto::Udp, ends.vip, &[ends.backend])])?;
            let sent = udp(ends.client, ends.vip).payload("x");
            path.from_pod(&sent)?;
            if answered {
                path.to_pod(&udp(ends.backend, ends.client).payload("y"))?;
            }
            path.set([service(Proto::Udp, ends.vip, &[ends.second])])?;
            let (_, out) = checked(&mut path, names::POD_INGRESS, &sent)?;
            assert_same(&out, &sent.clone().with_dst(ends.second));
            assert_eq!(path.counter(Counter::Resteered)?, 1);
            assert_eq!(path.flow_keys()?.len(), 2, "nothing of the old flow is left");
        }
        Ok(())
    })
}

#[test]
fn a_flow_continues_when_its_frontend_is_gone_but_not_without_its_backend() -> Result<()> {
    let mut path = Datapath::new()?;
    let (name, port) = service(Proto::Udp, V4.vip, &[V4.backend]);
    path.set([(name.clone(), port)])?;
    let sent = udp(V4.client, V4.vip).payload("x");
    path.from_pod(&sent)?;
    path.remove(&name)?;
    // The backend was removed with its service, so nothing is left to take the flow.
    let outcome = path.from_pod(&sent)?;
    assert_eq!(outcome.verdict, CONTINUE);
    Ok(())
}

#[test]
fn two_vips_with_one_backend_never_share_a_tuple() -> Result<()> {
    each_family(|ends| {
        let mut path = Datapath::new()?;
        path.set([
            service(Proto::Tcp, ends.vip, &[ends.backend]),
            service(Proto::Tcp, ends.other_vip, &[ends.backend]),
        ])?;
        handshake(&mut path, ends)?;
        let second = tcp(ends.client, ends.other_vip).syn();
        let (_, out) = checked(&mut path, names::POD_INGRESS, &second)?;
        assert_eq!(out.to(), ends.backend.parse()?);
        assert_eq!(out.from().ip(), second.src);
        assert_ne!(out.from().port(), 40_000);
        // Each reply goes to its own connection.
        let reply = tcp(ends.backend, out.from()).syn_ack();
        let (_, back) = checked(&mut path, names::POD_EGRESS, &reply)?;
        assert_same(&back, &reply.clone().with_src(ends.other_vip).with_dst(ends.client));
        let reply = tcp(ends.backend, ends.client).ack();
        assert_same(&path.to_pod(&reply)?.packet()?, &reply.clone().with_src(ends.vip));
        assert_eq!(path.counter(Counter::ClashResolved)?, 1);
        Ok(())
    })
}

#[test]
fn a_direct_connection_and_a_translated_one_never_share_a_tuple() -> Result<()> {
    each_family(|ends| {
        // The direct connection comes first, then the one through the VIP.
        let mut path = Datapath::new()?;
        path.set([service(Proto::Tcp, ends.vip, &[ends.backend])])?;
        let direct = tcp(ends.client, ends.backend).syn();
        assert_same(&path.from_pod(&direct)?.packet()?, &direct);
        let reply = tcp(ends.backend, ends.client).syn_ack();
        assert_same(&path.to_pod(&reply)?.packet()?, &reply);
        let out = path.from_pod(&tcp(ends.client, ends.vip).syn())?.packet()?;
        assert_ne!(out.from().port(), 40_000);
        assert_same(&path.to_pod(&reply)?.packet()?, &reply);

        // The connection through the VIP comes first, then the direct one.
        let mut path = Datapath::new()?;
        path.set([service(Proto::Tcp, ends.vip, &[ends.backend])])?;
        handshake(&mut path, ends)?;
        let (_, out) = checked(&mut path, names::POD_INGRESS, &direct)?;
        assert_eq!(out.to(), direct.to());
        assert_ne!(out.from().port(), 40_000);
        let reply = tcp(ends.backend, out.from()).syn_ack();
        let (_, back) = checked(&mut path, names::POD_EGRESS, &reply)?;
        assert_same(&back, &reply.clone().with_dst(ends.client));
        assert_eq!(path.counter(Counter::FlowDirect)?, 1);
        Ok(())
    })
}

/// A pod cannot make the bitmap useless with connections to itself.
#[test]
fn a_pod_that_is_its_own_backend_sets_few_bits() -> Result<()> {
    const FLOWS: u16 = 5_000;
    // Each CPU has a budget of its own.
    stay_on_one_cpu()?;
    each_family(|ends| {
        let mut path = Datapath::new()?;
        let own = ends.client.replace("40000", "8080");
        let outside = if ends.client == V6.client { "[2001:db8::10]:80" } else { "203.0.113.10:80" };
        path.set([also_on(service(Proto::Tcp, ends.vip, &[&own]), FrontendKind::LoadBalancer, outside)])?;
        let bits = |path: &Datapath| {
            let words = path.kernel.maps.interest.words();
            words[..INTEREST_WORDS].iter().map(|word| word.count_ones()).sum::<u32>()
        };
        let before = bits(&path);
        let began = Instant::now();
        for (target, most) in [(ends.vip, 0), (outside, 1_024)] {
            for port in 0..FLOWS {
                let client = ends.client.replace("40000", &(10_000 + port).to_string());
                path.from_pod(&tcp(&*client, target).syn())?;
            }
            // A beat is about a second.
            let beats = 2 + began.elapsed().as_secs() as u32;
            let (set, most) = (bits(&path) - before, most * beats);
            assert!(set <= most, "{target}: {set} bits, at most {most}");
        }
        assert!(bits(&path) > before, "the replies of some pass");
        assert_eq!(path.counter(Counter::FlowCreated)?, 2 * u64::from(FLOWS));
        Ok(())
    })
}

#[test]
fn a_pod_that_is_its_own_backend_gets_its_packet_back() -> Result<()> {
    each_family(|ends| {
        let own = ends.client.replace("40000", "8080");
        for proto in [Proto::Tcp, Proto::Udp] {
            let mut path = Datapath::new()?;
            path.set([service(proto, ends.vip, &[&own])])?;
            let sent = match proto {
                Proto::Udp => udp(ends.client, ends.vip).payload("x"),
                _ => tcp(ends.client, ends.vip).syn(),
            };
            let (verdict, out) = checked(&mut path, names::POD_INGRESS, &sent)?;
            assert_eq!(verdict, REDIRECT);
            let vip_side = ends.vip.replace(":80", ":40000");
            let shown = sent.clone().with_src(vip_side.as_str()).with_dst(own.as_str());
            assert_same(&out, &shown.macs(sent.eth_dst, sent.eth_src));
            // The packet leaves through the same link, untouched.
            assert_same(&path.to_pod(&out)?.packet()?, &out);
            let reply = match proto {
                Proto::Udp => udp(own.as_str(), vip_side.as_str()).payload("y"),
                _ => tcp(own.as_str(), vip_side.as_str()).syn_ack(),
            };
            let (verdict, out) = checked(&mut path, names::POD_INGRESS, &reply)?;
            assert_eq!(verdict, REDIRECT);
            let shown = reply.clone().with_src(ends.vip).with_dst(ends.client);
            assert_same(&out, &shown.macs(reply.eth_dst, reply.eth_src));
            assert_eq!(path.counter(Counter::Hairpin)?, 2);
        }
        Ok(())
    })
}

#[test]
fn on_a_bridge_port_packets_go_where_replies_come_from() -> Result<()> {
    each_family(|ends| {
        let mut path = Datapath::new()?;
        path.set([service(Proto::Tcp, ends.vip, &[ends.backend])])?;
        let (pod, gateway, neighbour) =
            (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]), Mac([2, 0, 0, 0, 0, 3]));
        let sent = tcp(ends.client, ends.vip).macs(pod, gateway);
        let first = Run::new().packet(path.program(names::PORT_INGRESS)?, &sent.clone().syn())?.packet()?;
        assert_eq!(first.eth_dst, gateway);
        let reply = tcp(ends.backend, ends.client).syn_ack().macs(neighbour, pod);
        Run::new().packet(path.program(names::PORT_EGRESS)?, &reply)?;
        let next = Run::new().packet(path.program(names::PORT_INGRESS)?, &sent.clone().ack())?.packet()?;
        assert_same(&next, &sent.clone().ack().with_dst(ends.backend).macs(pod, neighbour));
        // Without replies, the packet path asks again where the backend is: with the packet after the first one of a
        // later interval.
        std::thread::sleep(Duration::from_secs(4));
        let mut later = || -> Result<_> {
            Ok(Run::new().packet(path.program(names::PORT_INGRESS)?, &sent.clone().ack())?.packet()?.eth_dst)
        };
        assert_eq!((later()?, later()?), (neighbour, gateway));
        Ok(())
    })
}

#[test]
fn a_redirect_about_a_translated_flow_is_dropped() -> Result<()> {
    let mut path = Datapath::new()?;
    path.set([service(Proto::Udp, V4.vip, &[V4.backend])])?;
    path.from_pod(&udp(V4.client, V4.vip).payload("x"))?;
    // The redirect quotes the packet as it left us, without its Ethernet header.
    let quoted = |dst: &str| udp(V4.client, dst).payload("x").bytes()[14..].to_vec();
    let redirect =
        |dst: &str| icmp([10, 244, 1, 1].into(), [10, 244, 1, 10].into(), 5, 1).payload(quoted(dst));
    assert_eq!(path.to_pod(&redirect(V4.backend))?.verdict, DROP);
    assert_eq!(path.to_pod(&redirect("10.244.1.99:8080"))?.verdict, CONTINUE);
    assert_eq!(path.counter(Counter::DropIcmpRedirect)?, 1);
    Ok(())
}

#[test]
fn an_error_about_a_translated_packet_quotes_what_the_client_sent() -> Result<()> {
    each_family(|ends| {
        for proto in [Proto::Tcp, Proto::Udp] {
            let mut path = Datapath::new()?;
            path.set([
                service(proto, ends.vip, &[ends.backend]),
                service(proto, ends.other_vip, &[ends.backend]),
            ])?;
            let sent = |vip: &str| match proto {
                Proto::Udp => udp(ends.client, vip).payload("a long datagram"),
                _ => tcp(ends.client, vip).syn(),
            };
            // The second connection has another source port behind the translation, because of a clash.
            for vip in [ends.vip, ends.other_vip] {
                let behind = path.from_pod(&sent(vip))?.packet()?;
                let error = |quoted: &Packet| {
                    let (router, client): (IpAddr, _) = match sent(vip).src {
                        client @ IpAddr::V4(_) => ([192, 0, 2, 1].into(), client),
                        client @ IpAddr::V6(_) => {
                            (Ipv6Addr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]).into(), client)
                        }
                    };
                    // "Fragmentation needed" and "packet too big", with the minimum that a router quotes.
                    let (kind, code) = if client.is_ipv4() { (3, 4) } else { (2, 0) };
                    let header = if client.is_ipv4() { 20 } else { 40 };
                    icmp(router, client, kind, code).payload(&quoted.bytes()[14..14 + header + 8])
                };
                let (verdict, out) = checked(&mut path, names::POD_EGRESS, &error(&behind))?;
                assert_eq!(verdict, CONTINUE);
                // The transport checksum in the quotation is unchanged: only for UDP does it lie within the eight
                // quoted bytes.
                let mut expected = error(&sent(vip));
                if proto == Proto::Udp {
                    expected = with_udp_check_of(expected, &error(&behind));
                }
                assert_same(&out, &expected);
            }
            let stranger = icmp([192, 0, 2, 1].into(), [10, 244, 1, 10].into(), 3, 4)
                .payload(&udp(V4.client, "10.244.1.99:9").bytes()[14..]);
            assert_same(&path.to_pod(&stranger)?.packet()?, &stranger);
        }
        Ok(())
    })
}

/// A client that closed its port, or whose namespace has a small MTU, sends an error to the VIP: the backend receives
/// it, about the reply that the backend sent.
#[test]
fn an_error_of_a_client_about_a_reply_goes_to_the_backend() -> Result<()> {
    each_family(|ends| {
        let error = |of: &Packet| {
            let (kind, code, header) = if of.src.is_ipv4() { (3, 3, 20) } else { (1, 4, 40) };
            icmp(of.dst, of.src, kind, code).payload(&of.bytes()[14..14 + header + 8])
        };
        for proto in [Proto::Tcp, Proto::Udp] {
            let mut path = Datapath::new()?;
            path.set([
                service(proto, ends.vip, &[ends.backend]),
                service(proto, ends.other_vip, &[ends.backend]),
            ])?;
            // The second connection has another source port behind the translation, because of a clash.
            for vip in [ends.vip, ends.other_vip] {
                let (sent, answer): (Packet, fn(SocketAddr, SocketAddr) -> Packet) = match proto {
                    Proto::Udp => (udp(ends.client, vip), |from, to| udp(from, to).payload("an answer")),
                    _ => (tcp(ends.client, vip).syn(), |from, to| tcp(from, to).syn_ack()),
                };
                let behind = path.from_pod(&sent)?.packet()?;
                let reply = answer(behind.to(), behind.from());
                let restored = path.to_pod(&reply)?.packet()?;
                assert_same(&restored, &reply.clone().with_src(vip).with_dst(ends.client));
                let (verdict, out) = checked(&mut path, names::POD_INGRESS, &error(&restored))?;
                assert_eq!(verdict, CONTINUE);
                // As above, the transport checksum of the quotation is unchanged.
                let mut expected = with_udp_check_of(error(&reply), &error(&restored));
                expected.src = restored.dst;
                assert_same(&out, &expected);
                // An error to an address other than the reply's sender, or from one other than its receiver, is left
                // alone.
                for is_to in [true, false] {
                    let mut other = error(&restored);
                    *(if is_to { &mut other.dst } else { &mut other.src }) = behind.dst;
                    assert_same(&path.from_pod(&other)?.packet()?, &other);
                }
            }
            let client: SocketAddr = ends.client.parse()?;
            let stranger = error(&udp(ends.vip, SocketAddr::new(client.ip(), 9)));
            assert_same(&path.from_pod(&stranger)?.packet()?, &stranger);
        }
        Ok(())
    })
}

/// Copies the last two bytes of the quotation, the checksum of UDP, from another packet.
fn with_udp_check_of(packet: Packet, other: &Packet) -> Packet {
    let body = |packet: &Packet| match &packet.transport {
        Transport::Icmp(icmp) => icmp.body.clone(),
        transport => panic!("{transport:?} is not ICMP"),
    };
    let (mut bytes, other) = (body(&packet), body(other));
    let check = bytes.len() - 2;
    bytes[check..].copy_from_slice(&other[check..]);
    packet.payload(bytes)
}

#[test]
fn selection_is_even() -> Result<()> {
    let mut path = Datapath::new()?;
    let backends = ["10.244.1.11:8080", "10.244.1.12:8080", "10.244.1.13:8080"];
    path.set([service(Proto::Udp, V4.vip, &backends)])?;
    let mut hits = [0_u32; 3];
    for port in 0..3000 {
        let sent = udp(("10.244.1.10".parse()?, 20_000 + port), V4.vip).payload("x");
        let to = path.from_pod(&sent)?.packet()?.to().to_string();
        hits[backends.iter().position(|backend| *backend == to).expect("the packet goes to a backend")] += 1;
    }
    // Chi-square with two degrees of freedom exceeds 20.8 once in 33,000 runs.
    let chi: f64 = hits.iter().map(|hit| (f64::from(*hit) - 1000.0).powi(2) / 1000.0).sum();
    assert!(chi < 20.8, "{hits:?}");
    Ok(())
}
