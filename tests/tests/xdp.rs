//! The core over an `xdp_md`: parsing, the flow lookup and the standing of a flow give the same results at XDP as at
//! tc.

use anyhow::Result;
use lb_common::{Finding, Proto};
use lb_tests::datapath::{Datapath, service};
use lb_tests::packet::{Extension, Packet, tcp, udp};

/// Client, frontend and backend, in one family.
struct Ends {
    client: &'static str,
    frontend: &'static str,
    backend: &'static str,
}

const FAMILIES: [Ends; 2] = [
    Ends { client: "10.244.1.10:40000", frontend: "10.96.0.10:80", backend: "10.244.2.20:8080" },
    Ends {
        client: "[fd00:10:244:1::10]:40000",
        frontend: "[fd00:10:96::10]:80",
        backend: "[fd00:10:244:2::20]:8080",
    },
];

/// A service with one backend, whose flow was opened by a packet at tc.
fn with_flow(proto: Proto, ends: &Ends, first: &Packet) -> Result<Datapath> {
    let mut path = Datapath::new()?;
    path.set([service(proto, ends.frontend, &[ends.backend])])?;
    path.from_pod(first)?;
    Ok(path)
}

#[test]
fn a_flow_of_tc_is_found() -> Result<()> {
    for ends in &FAMILIES {
        let (to, back) = (tcp(ends.client, ends.frontend), tcp(ends.backend, ends.client));
        let mut path = with_flow(Proto::Tcp, ends, &to.clone().syn())?;
        path.to_pod(&back.syn_ack())?;
        assert_eq!(path.look_up(&to.clone().syn())?, Finding::Good);
        assert_eq!(path.look_up(&to.clone().ack().payload("a request"))?, Finding::Good);

        let datagram = udp(ends.client, ends.frontend).payload("a question");
        let mut path = with_flow(Proto::Udp, ends, &datagram)?;
        assert_eq!(path.look_up(&datagram)?, Finding::Good);
        assert_eq!(path.look_up(&udp(ends.client, ends.frontend).without_checksum())?, Finding::Good);
    }
    Ok(())
}

#[test]
fn the_entry_of_a_reply_is_about_the_other_direction() -> Result<()> {
    for ends in &FAMILIES {
        let mut path = with_flow(Proto::Tcp, ends, &tcp(ends.client, ends.frontend).syn())?;
        // Replies are of interest because of their source; the service of a backend also makes their destination
        // interesting.
        path.set([service(Proto::Tcp, ends.client, &[ends.frontend])])?;
        assert_eq!(path.look_up(&tcp(ends.backend, ends.client).syn_ack())?, Finding::OtherWay);
    }
    Ok(())
}

#[test]
fn a_flow_without_its_backend_is_judged_by_its_protocol() -> Result<()> {
    for ends in &FAMILIES {
        for proto in [Proto::Tcp, Proto::Udp] {
            let first = match proto {
                Proto::Udp => udp(ends.client, ends.frontend),
                _ => tcp(ends.client, ends.frontend).syn(),
            };
            let mut path = with_flow(proto, ends, &first)?;
            path.set([service(proto, ends.frontend, &[])])?;
            let (next, found) = match proto {
                Proto::Udp => (first.clone(), Finding::Moved),
                _ => (tcp(ends.client, ends.frontend).ack(), Finding::BackendGone),
            };
            assert_eq!(path.look_up(&next)?, found, "{proto}");
            if proto == Proto::Tcp {
                assert_eq!(path.look_up(&first)?, Finding::Over, "a SYN starts another connection");
            }
        }
    }
    Ok(())
}

#[test]
fn a_closed_flow_is_over_for_a_syn() -> Result<()> {
    for ends in &FAMILIES {
        let to = tcp(ends.client, ends.frontend);
        let mut path = with_flow(Proto::Tcp, ends, &to.clone().syn())?;
        path.from_pod(&to.clone().rst())?;
        assert_eq!(path.look_up(&to.clone().syn())?, Finding::Over);
        assert_eq!(path.look_up(&to.ack())?, Finding::Good, "the segment belongs to the old connection");
    }
    Ok(())
}

#[test]
fn what_has_no_flow_is_told_apart() -> Result<()> {
    for ends in &FAMILIES {
        let to = tcp(ends.client, ends.frontend);
        let mut path = with_flow(Proto::Tcp, ends, &to.clone().syn())?;
        let other_port = ends.client.replace("40000", "40001");
        assert_eq!(path.look_up(&tcp(other_port.as_str(), ends.frontend).syn())?, Finding::NoFlow);
        let elsewhere = ends.frontend.replace(":80", ":81").replace("96", "97");
        assert_eq!(path.look_up(&tcp(ends.client, elsewhere.as_str()).syn())?, Finding::NotOurs);
        let with_options = match to.src.is_ipv4() {
            true => to.clone().ipv4_options(1),
            false => to.clone().ext_headers(&[Extension::HOP_BY_HOP]),
        };
        for left_to_tc in [to.clone().syn().vlan(7), with_options.syn()] {
            assert_eq!(path.look_up(&left_to_tc)?, Finding::NotPlain, "{left_to_tc}");
        }
        let fragments = udp(ends.client, ends.frontend).payload(vec![7; 100]).fragments(42, 64);
        for fragment in &fragments {
            assert_eq!(path.look_up(fragment)?, Finding::NotPlain, "{fragment}");
        }
    }
    Ok(())
}
