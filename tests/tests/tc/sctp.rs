//! SCTP: addresses are translated; ports, and the checksum that covers them, do not change.

use anyhow::Result;
use lb_common::{Counter, FrontendKind, Proto, names};
use lb_tests::datapath::{CONTINUE, DROP, Datapath, REDIRECT, also_on, service};
use lb_tests::packet::{assert_same, icmp, sctp};
use lb_tests::program::Run;

use crate::{Ends, V4, checked};

const ENDS: [Ends; 2] = [
    Ends {
        client: "10.244.1.10:40000",
        vip: "10.96.0.10:2905",
        other_vip: "10.96.0.20:2905",
        backend: "10.244.1.11:2905",
        second: "10.244.1.12:2905",
    },
    Ends {
        client: "[fd00:10:244:1::10]:40000",
        vip: "[fd00:10:96::10]:2905",
        other_vip: "[fd00:10:96::20]:2905",
        backend: "[fd00:10:244:1::11]:2905",
        second: "[fd00:10:244:1::12]:2905",
    },
];

/// CRC32c covers ports and chunks and is verified for every packet that comes out.
#[test]
fn sctp_goes_to_the_backend_and_the_reply_comes_from_the_vip() -> Result<()> {
    for ends in ENDS {
        let mut path = Datapath::new()?;
        path.set([service(Proto::Sctp, ends.vip, &[ends.backend])])?;
        for chunks in [&b"\x01\0\0\x04"[..], &[7; 999]] {
            let sent = sctp(ends.client, ends.vip).payload(chunks);
            for sent in [sent.clone(), sent.vlan(7)] {
                let (verdict, out) = checked(&mut path, names::POD_INGRESS, &sent)?;
                assert_eq!(verdict, CONTINUE);
                assert_same(&out, &sent.clone().with_dst(ends.backend));
            }
            let reply = sctp(ends.backend, ends.client).payload(chunks);
            let (verdict, out) = checked(&mut path, names::POD_EGRESS, &reply)?;
            assert_eq!(verdict, CONTINUE);
            assert_same(&out, &reply.clone().with_src(ends.vip));
        }
        let flows = path.flows()?;
        assert_eq!((flows.len(), flows[0].phase), (1, "assured"));
        // An error about the association comes back translated as well.
        let (kind, code) = if ends.client == ENDS[0].client { (3, 4) } else { (2, 0) };
        let translated = sctp(ends.client, ends.backend).payload([7; 40]).bytes();
        let sent = sctp(ends.client, ends.vip).payload([7; 40]).bytes();
        let (client, vip) = (sctp(ends.client, ends.vip).src, sctp(ends.client, ends.backend).dst);
        let error = |quoted: &[u8]| icmp(vip, client, kind, code).payload(&quoted[14..]);
        assert_same(&path.to_pod(&error(&translated))?.packet()?, &error(&sent));
    }
    Ok(())
}

#[test]
fn a_pod_reaches_itself_by_sctp() -> Result<()> {
    for ends in ENDS {
        let own = ends.client.replace("40000", "2905");
        let mut path = Datapath::new()?;
        path.set([service(Proto::Sctp, ends.vip, &[&own])])?;
        let sent = sctp(ends.client, ends.vip).payload("init");
        let (verdict, out) = checked(&mut path, names::POD_INGRESS, &sent)?;
        assert_eq!(verdict, REDIRECT);
        let shown = ends.vip.replace(":2905", ":40000");
        let turned = sent.clone().with_src(shown.as_str()).with_dst(own.as_str());
        assert_same(&out, &turned.macs(sent.eth_dst, sent.eth_src));
    }
    Ok(())
}

/// The checksum covers the port: a NodePort, or a targetPort with another number, leads nowhere. `lb services` and an
/// Event (`SCTPPortChange`) report such a port.
#[test]
fn sctp_to_an_endpoint_on_another_port_is_dropped() -> Result<()> {
    let mut path = Datapath::new()?;
    path.set_node_addresses(&["192.168.77.1"])?;
    let [ends, _] = ENDS;
    let (name, port) = service(Proto::Sctp, ends.vip, &[ends.backend]);
    path.set([also_on((name, port), FrontendKind::NodePort, "192.168.77.1:30905")])?;
    path.set([service(Proto::Sctp, ends.other_vip, &["10.244.1.11:2906"])])?;
    for to in ["192.168.77.1:30905", ends.other_vip] {
        assert_eq!(path.from_pod(&sctp(ends.client, to).payload("init"))?.verdict, DROP, "{to}");
    }
    assert_eq!(path.counter(Counter::DropNoEndpoint)?, 2);
    assert!(path.flow_keys()?.is_empty());
    Ok(())
}

/// No reply can be made, because a checksum that the kernel is to fill in would be written into it.
#[test]
fn sctp_that_nobody_serves_is_dropped() -> Result<()> {
    for ends in ENDS {
        let mut path = Datapath::new()?;
        path.set([service(Proto::Sctp, ends.vip, &[])])?;
        let unknown = ends.vip.replace(":2905", ":2906");
        for to in [ends.vip, unknown.as_str()] {
            assert_eq!(path.from_pod(&sctp(ends.client, to).payload("init"))?.verdict, DROP, "{to}");
        }
        assert_eq!(path.counter(Counter::DropNoEndpoint)?, 2);
        // TCP uses the same port number; the two services are unrelated.
        path.set([service(Proto::Tcp, ends.vip, &[ends.backend])])?;
        assert_eq!(path.from_pod(&sctp(ends.client, ends.vip).payload("init"))?.verdict, DROP);
    }
    Ok(())
}

/// SCTP cannot get another source port as TCP and UDP do.
#[test]
fn two_associations_that_would_be_one_at_the_backend_are_not_mixed() -> Result<()> {
    for ends in ENDS {
        let mut path = Datapath::new()?;
        path.set([ends.vip, ends.other_vip].map(|vip| service(Proto::Sctp, vip, &[ends.backend])))?;
        let first = sctp(ends.client, ends.vip).payload("init");
        assert_same(&path.from_pod(&first)?.packet()?, &first.clone().with_dst(ends.backend));
        assert_eq!(path.from_pod(&sctp(ends.client, ends.other_vip).payload("init"))?.verdict, DROP);
        assert_eq!(path.counter(Counter::ClashDropped)?, 1);
    }
    Ok(())
}

/// A backend that does not know an association aborts it (RFC 9260 8.4), which informs the client.
#[test]
fn an_association_whose_backend_is_gone_meets_another() -> Result<()> {
    for ends in ENDS {
        let mut path = Datapath::new()?;
        path.set([service(Proto::Sctp, ends.vip, &[ends.backend])])?;
        let sent = sctp(ends.client, ends.vip).payload("heartbeat");
        path.from_pod(&sent)?;
        path.to_pod(&sctp(ends.backend, ends.client).payload("ack"))?;
        path.set([service(Proto::Sctp, ends.vip, &[ends.second])])?;
        assert_same(&path.from_pod(&sent)?.packet()?, &sent.clone().with_dst(ends.second));
        assert_eq!(path.counter(Counter::Resteered)?, 1);
    }
    Ok(())
}

#[test]
fn sctp_that_is_cut_short_passes() -> Result<()> {
    let mut path = Datapath::new()?;
    path.set([service(Proto::Sctp, V4.vip, &[V4.backend])])?;
    let whole = sctp(V4.client, V4.vip).bytes();
    for len in 14..whole.len() {
        if let Ok(outcome) = Run::new().frame(path.program(names::POD_INGRESS)?, &whole[..len]) {
            assert_eq!((outcome.verdict, outcome.frame.as_slice()), (CONTINUE, &whole[..len]));
        }
    }
    Ok(())
}
