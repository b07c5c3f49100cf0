//! Whoever asks a Service hears the Service, never the pod behind it.

use crate::stage::{PROTOS, Stage, service, vip};
use anyhow::Result;
use lb_tests::load::Requests;
use lb_tests::world::{Family, Layout, Tap};
use std::collections::BTreeSet;
use std::net::SocketAddr;

#[test]
fn every_packet_to_the_client_comes_from_the_service() -> Result<()> {
    for layout in [Layout::routed(), Layout::bridge(true, false), Layout::bridge(false, true)] {
        let stage = Stage::new(layout)?;
        stage.apply(&service("web", 10).endpoints(stage.backends(3)))?;
        let client = stage.world.client();
        for family in Family::ALL {
            let tap = Tap::on(client)?;
            for proto in PROTOS {
                // The sockets of UDP requests are not connected: they would hear anybody.
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
