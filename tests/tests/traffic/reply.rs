//! A client of a Service receives packets from the Service, never from the pod behind it.

use crate::stage::{PORT, PROTOS, Stage, service, vip};
use anyhow::Result;
use lb_tests::load::Requests;
use lb_tests::world::{Family, Layout, Service, Tap};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

#[test]
fn every_packet_to_the_client_comes_from_the_service() -> Result<()> {
    for layout in [Layout::routed(), Layout::bridge(true, false), Layout::bridge(false, true)] {
        let stage = Stage::new(layout)?;
        stage.apply(&service("web", 10).endpoints(stage.backends(3)))?;
        let client = stage.world.client();
        for family in Family::ALL {
            let tap = Tap::on(client)?;
            for proto in PROTOS {
                // The sockets of UDP requests are not connected, so they would accept answers from any address.
                Requests::new(proto, vip(family, 10)).count(200).run(&client.netns).assert_clean();
            }
            let packets = tap.packets();
            let to_client = packets.iter().filter(|packet| packet.dst == client.ip(family));
            let speakers: BTreeSet<SocketAddr> =
                to_client.filter(|packet| packet.to().port() != 0).map(|packet| packet.from()).collect();
            assert_eq!(speakers, BTreeSet::from([vip(family, 10)]));
        }
    }
    Ok(())
}

/// A port on which no echo server listens.
const SILENT: u16 = 8_081;

/// A pod that answers a client whose socket is closed gets an error, which seems to come from the client that the pod
/// knows.
#[test]
fn a_backend_hears_that_its_client_is_gone() -> Result<()> {
    for layout in [Layout::routed(), Layout::bridge(true, false), Layout::bridge(false, true)] {
        let stage = Stage::new(layout)?;
        let backend = &stage.backends(1)[0];
        stage.apply(&Service::new("silent").vips(10).udp(PORT, SILENT).endpoints([backend]))?;
        for family in Family::ALL {
            let server = backend.netns.enter(|| UdpSocket::bind(backend.at(family, SILENT)))?;
            server.set_read_timeout(Some(Duration::from_secs(10)))?;
            let client = stage.world.client();
            let asking = client.netns.enter(|| UdpSocket::bind(client.at(family, 0)))?;
            asking.send_to(b"?", vip(family, 10))?;
            let (_, from) = server.recv_from(&mut [0; 8])?;
            drop(asking);
            server.connect(from)?;
            server.send(b"!")?;
            let heard = server.recv(&mut [0; 8]).expect_err("the client's socket is closed");
            assert_eq!(heard.kind(), ErrorKind::ConnectionRefused, "{heard}");
        }
    }
    Ok(())
}
