//! Basic traffic in every layout, with either hook.

use crate::stage::{PROTOS, Stage, service, vip};
use anyhow::Result;
use lb_common::Proto;
use lb_tests::load::{Kind, Requests, TcpHandle, UdpHandle, transfer};
use lb_tests::world::{Family, Layout};
use std::time::Duration;

#[test]
fn routed_by_tcx() -> Result<()> {
    basic_traffic(Layout::routed(), "tcx", "tcx")
}

#[test]
fn routed_by_clsact() -> Result<()> {
    basic_traffic(Layout::routed(), "clsact", "clsact")
}

#[test]
fn routed_by_what_is_best() -> Result<()> {
    basic_traffic(Layout::routed(), "auto", "tcx")
}

#[test]
fn routed_beside_a_policy() -> Result<()> {
    basic_traffic(Layout::routed().with_policy(), "auto", "clsact")
}

#[test]
fn routed_beside_a_policy_by_clsact() -> Result<()> {
    basic_traffic(Layout::routed().with_policy(), "clsact", "clsact")
}

#[test]
fn routed_with_strict_filters() -> Result<()> {
    basic_traffic(Layout::routed().with_rp_filter(1), "auto", "tcx")
}

#[test]
fn bridge_with_br_netfilter_by_tcx() -> Result<()> {
    basic_traffic(Layout::bridge(true, false), "auto", "tcx")
}

#[test]
fn bridge_with_br_netfilter_by_clsact() -> Result<()> {
    basic_traffic(Layout::bridge(true, false), "clsact", "clsact")
}

#[test]
fn bridge_with_br_netfilter_and_invalid_dropped() -> Result<()> {
    basic_traffic(Layout::bridge(true, true), "auto", "tcx")
}

#[test]
fn bridge_by_tcx() -> Result<()> {
    basic_traffic(Layout::bridge(false, false), "auto", "tcx")
}

#[test]
fn bridge_with_invalid_dropped_by_tcx() -> Result<()> {
    basic_traffic(Layout::bridge(false, true), "auto", "tcx")
}

#[test]
fn bridge_with_invalid_dropped_by_clsact() -> Result<()> {
    basic_traffic(Layout::bridge(false, true), "clsact", "clsact")
}

#[test]
fn bridge_with_invalid_dropped_and_strict_filters() -> Result<()> {
    basic_traffic(Layout::bridge(false, true).with_rp_filter(1), "auto", "tcx")
}

#[test]
fn bridge_with_br_netfilter_beside_a_policy() -> Result<()> {
    basic_traffic(Layout::bridge(true, true).with_policy(), "auto", "clsact")
}

#[test]
fn bridge_with_invalid_dropped_beside_a_policy() -> Result<()> {
    basic_traffic(Layout::bridge(false, true).with_policy(), "auto", "clsact")
}

const WEB: u8 = 10;
const ALONE: u8 = 11;
/// Longer than the machine may stall. (A lost datagram is never answered.)
const TIMEOUT: Duration = Duration::from_secs(20);
/// So many that the chance of one of three backends having none of them is 3e-12.
const HELD: usize = 65;

fn basic_traffic(layout: Layout, attach: &str, hook: &str) -> Result<()> {
    let stage = Stage::with_args(layout, &["--attach", attach])?;
    assert_eq!(stage.hooks()?, stage.hooks_of_all_pods(hook));
    stage.apply(&service("web", WEB).endpoints(stage.backends(3)))?;
    stage.apply(&service("alone", ALONE).endpoints(stage.backends(1)))?;
    for family in Family::ALL {
        spread(&stage, family);
        assert_eq!(transfer(stage.client(), vip(family, WEB), 10)?.bytes, 10 << 20);
        hairpin(&stage, family);
    }
    for family in Family::ALL {
        removal(&stage, family)?;
    }
    Ok(())
}

fn spread(stage: &Stage, family: Family) {
    for proto in PROTOS {
        let report = Requests::new(proto, vip(family, WEB)).count(300).timeout(TIMEOUT).run(stage.client());
        report.assert_clean();
        report.assert_fair(&["b1", "b2", "b3"]);
    }
}

/// A pod connects to a Service of which it is the only backend.
fn hairpin(stage: &Stage, family: Family) {
    for proto in PROTOS {
        let report = Requests::new(proto, vip(family, ALONE))
            .count(20)
            .timeout(TIMEOUT)
            .run(&stage.world.backend(1).netns);
        assert_eq!(report.answers.get("b1"), Some(&20), "{proto}: {report}");
    }
}

/// Removes a backend: TCP clients learn it at once, UDP clients are served by another backend. Then restores it.
fn removal(stage: &Stage, family: Family) -> Result<()> {
    let web = service("web", WEB);
    let target = vip(family, WEB);
    let mut tcp: Vec<TcpHandle> = Vec::new();
    let mut udp: Vec<UdpHandle> = Vec::new();
    for _ in 0..HELD {
        tcp.push(TcpHandle::open(stage.client(), 0, target)?);
        udp.push(UdpHandle::open(stage.client(), 0, target)?);
    }
    stage.apply(&web.clone().endpoints(stage.backends(2)))?;
    stage.echo("b3").forget();
    for connection in &mut tcp {
        let outcome = connection.ping().map_err(|failure| failure.kind);
        let wanted = if connection.backend == "b3" { Err(Kind::Reset) } else { Ok(()) };
        assert_eq!(outcome, wanted, "{} > {}", connection.local, connection.backend);
    }
    for socket in &mut udp {
        let before = socket.backend.clone();
        let now = socket.ask()?;
        assert!(
            if before == "b3" { now != "b3" } else { now == before },
            "from {before} the socket moved to {now}"
        );
    }
    for proto in PROTOS {
        let report = Requests::new(proto, target).count(100).timeout(TIMEOUT).run(stage.client());
        report.assert_clean();
        assert!(!report.answers.contains_key("b3"), "{report}");
    }
    assert_eq!(stage.echo("b3").visits(), [], "b3 is no longer a backend");
    // Otherwise the assertions above would test nothing.
    assert!(tcp.iter().any(|connection| connection.backend == "b3"));
    assert!(udp.iter().any(|socket| socket.backend == "b3"));
    stage.apply(&web.endpoints(stage.backends(3)))?;
    let report = Requests::new(Proto::Tcp, target).count(100).timeout(TIMEOUT).run(stage.client());
    assert!(report.answers.contains_key("b3") && report.failures.is_empty(), "{report}");
    Ok(())
}
