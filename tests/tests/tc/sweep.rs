//! Flows that nothing needs leave soon, whatever their idle time.

use anyhow::Result;
use lb_common::{Addr, Port, Proto, interest_bit, timeout};
use lb_tests::datapath::{Datapath, service};
use lb_tests::packet::{tcp, udp};

use crate::{Ends, each_family, handshake};

fn bit(at: &str, proto: Proto) -> u32 {
    let at: std::net::SocketAddr = at.parse().expect("an address and a port");
    interest_bit(Addr::from(at.ip()), Port::new(at.port()), proto as u8)
}

/// The clients of all flows.
fn clients(path: &Datapath) -> Result<Vec<String>> {
    Ok(path.flows()?.into_iter().map(|flow| flow.client).collect())
}

#[test]
fn a_flow_whose_backend_is_gone_leaves_soon() -> Result<()> {
    each_family(|ends| {
        let mut path = Datapath::new()?;
        let both = |backend| [Proto::Tcp, Proto::Udp].map(|proto| service(proto, ends.vip, &[backend]));
        path.set(both(ends.backend))?;
        handshake(&mut path, ends)?;
        path.from_pod(&udp(ends.client, ends.vip).payload("question"))?;
        path.to_pod(&udp(ends.backend, ends.client).payload("answer"))?;
        path.age(timeout::UNNEEDED + 1)?;
        path.sweep(1)?;
        assert_eq!(path.flow_keys()?.len(), 4, "the backend is there");
        path.set(both(ends.second))?;
        path.sweep(1)?;
        assert_eq!(path.flow_keys()?.len(), 0, "both entries of both flows");
        Ok(())
    })
}

/// A connection straight to a backend.
fn straight(path: &mut Datapath, ends: &Ends) -> Result<()> {
    path.from_pod(&tcp(ends.client, ends.backend).syn())?;
    path.to_pod(&tcp(ends.backend, ends.client).syn_ack())?;
    path.from_pod(&tcp(ends.client, ends.backend).ack()).map(drop)
}

#[test]
fn a_direct_flow_leaves_soon_when_its_destination_is_no_backend_any_more() -> Result<()> {
    each_family(|ends| {
        let mut path = Datapath::new()?;
        let web = || service(Proto::Tcp, ends.vip, &[ends.backend]);
        path.set([web()])?;
        straight(&mut path, ends)?;
        path.age(timeout::UNNEEDED + 1)?;
        path.sweep(3)?;
        assert_eq!(clients(&path)?, [ends.client], "no other flow may take its tuple");
        assert!(path.has_bit(bit(ends.backend, Proto::Tcp)));

        path.remove(&web().0)?;
        path.sweep(2)?;
        assert!(!path.has_bit(bit(ends.backend, Proto::Tcp)), "the flow does not hold the bit");
        path.sweep(1)?;
        assert!(clients(&path)?.is_empty());
        Ok(())
    })
}

/// A direct flow that got another source port, because its tuple was taken, needs its translation.
#[test]
fn a_direct_flow_with_another_port_holds_its_bit() -> Result<()> {
    each_family(|ends| {
        let mut path = Datapath::new()?;
        let web = || service(Proto::Tcp, ends.vip, &[ends.backend]);
        path.set([web()])?;
        handshake(&mut path, ends)?;
        let sent = path.from_pod(&tcp(ends.client, ends.backend).syn())?.packet()?;
        assert_ne!(sent.from(), ends.client.parse()?);
        path.remove(&web().0)?;
        path.age(timeout::UNNEEDED + 1)?;
        path.sweep(4)?;
        assert!(path.has_bit(bit(ends.backend, Proto::Tcp)));
        assert_eq!(clients(&path)?, [ends.client], "the flow to the Service is gone");
        Ok(())
    })
}
