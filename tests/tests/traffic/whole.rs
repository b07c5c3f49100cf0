//! A large transfer through one connection arrives complete, with the offloads of the links enabled.

use crate::stage::{Stage, TARGET, service, vip};
use anyhow::Result;
use lb_tests::load::transfer;
use lb_tests::packet::{Packet, Transport};
use lb_tests::world::{Family, Layout, Tap};

/// Transfers 100 MiB there and the same 100 MiB back.
fn there_and_back(layout: Layout) -> Result<()> {
    let stage = Stage::new(layout)?;
    stage.apply(&service("web", 10).endpoints(stage.backends(3)))?;
    for family in Family::ALL {
        let whole = transfer(stage.client(), vip(family, 10), 100)?;
        assert_eq!(whole.bytes, 100 << 20);
        println!("{family:?}: 100 MiB and back in {:.1?}", whole.time);
    }
    Ok(())
}

#[test]
fn a_hundred_mebibytes_routed() -> Result<()> {
    there_and_back(Layout::routed())
}

#[test]
fn a_hundred_mebibytes_over_a_bridge() -> Result<()> {
    there_and_back(Layout::bridge(false, true))
}

/// Otherwise the tests above would not cover offloads.
#[test]
fn packets_larger_than_the_link_pass_both_ways() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    stage.apply(&service("web", 10).endpoints(stage.backends(1)))?;
    for family in Family::ALL {
        let tap = Tap::on(stage.world.backend(1))?;
        transfer(stage.client(), vip(family, 10), 4)?;
        let large =
            |packet: &Packet| matches!(&packet.transport, Transport::Tcp(tcp) if tcp.payload.len() > 9_000);
        assert!(tap.count(|packet| packet.to().port() == TARGET && large(packet)) > 0, "{family:?}, there");
        assert!(tap.count(|packet| packet.from().port() == TARGET && large(packet)) > 0, "{family:?}, back");
    }
    Ok(())
}
