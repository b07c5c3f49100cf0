//! Programs are replaced under traffic.

use crate::stage::{Stage, WEB, operations, vip};
use anyhow::Result;
use aya::programs::links::{FdLink, PinnedLink};
use lb_common::Proto;
use lb_tests::load::{HeldTcp, HeldUdp, Kind, Pinger, Requests};
use lb_tests::world::{Family, Layout};
use lb_userspace::dataplane::pins::Pins;
use serde_json::Value;
use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The ids of the programs on the node's links, as the kernel reports them. (The bpftool of Debian 12 does not know
/// TCX.)
pub fn programs(stage: &Stage, attach: &str) -> Result<BTreeSet<u32>> {
    if attach == "tcx" {
        let links = std::fs::read_dir(Pins::new(&stage.world.folder().pins()).links())?;
        let program = |path| Ok(FdLink::from(PinnedLink::from_pin(path)?).info()?.program_id());
        return links.map(|link| program(link?.path())).collect();
    }
    let shown: Value = serde_json::from_str(&stage.world.node().run("bpftool", &["-j", "net", "show"])?)?;
    let programs = shown[0]["tc"].as_array().into_iter().flatten();
    Ok(programs.filter_map(|program| program["id"].as_u64()).map(|id| id as u32).collect())
}

/// The UDP clients send each datagram once, so a lost datagram is a failure.
fn check_swaps(attach: &str) -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let mut agent = stage.world.start_agent(&["--attach", attach])?;
    let client = &stage.world.client().netns;
    let mut pingers = (Vec::new(), Vec::new());
    for family in Family::ALL {
        let tcp = HeldTcp::open(client, vip(WEB, family, Proto::Tcp), 20)?;
        let udp = HeldUdp::open(client, vip(WEB, family, Proto::Udp), 20)?;
        pingers.0.push(Pinger::start(tcp, Duration::from_millis(1)));
        pingers.1.push(Pinger::start(udp, Duration::ZERO));
    }
    let before = programs(&stage, attach)?;
    assert_eq!(before.len(), 2, "one for each direction: {before:?}");
    let mut last = before;
    for round in 0..6 {
        agent.terminate()?;
        agent.start_again()?;
        assert_eq!(operations(&agent)?, 0, "round {round}");
        let now = programs(&stage, attach)?;
        assert!(now.len() == last.len() && now.is_disjoint(&last), "round {round}: {last:?} are now {now:?}");
        last = now;
        sleep(Duration::from_millis(100));
    }
    for pinger in pingers.1 {
        let rounds = pinger.rounds();
        let (_, failures) = pinger.stop();
        println!("{attach}: UDP {rounds} rounds of 20, {} failures", failures.len());
        assert!(failures.is_empty(), "{} datagrams lost, the first: {}", failures.len(), failures[0]);
        assert!(rounds > 50, "{rounds} rounds");
    }
    for pinger in pingers.0 {
        let (_, failures) = pinger.stop();
        assert!(failures.is_empty(), "{} connections failed, the first: {}", failures.len(), failures[0]);
    }
    Ok(())
}

#[test]
fn a_swap_under_tcx_loses_no_packet() -> Result<()> {
    check_swaps("tcx")
}

#[test]
fn a_swap_under_clsact_loses_no_packet() -> Result<()> {
    check_swaps("clsact")
}

/// The hook itself changes, which is not atomic: for some 25 ms a link's requests bypass our programs and follow the
/// node's routes. A connection sends them again. A new connection may be told at once that the Service's address is
/// unreachable; none is reset, and no answer comes from an address that was not asked.
#[test]
fn a_change_of_the_hook_keeps_every_connection() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let client = &stage.world.client().netns;
    let mut agent = Some(stage.world.start_agent(&["--attach", "tcx"])?);
    let mut tcp = Vec::new();
    let mut short = Vec::new();
    let mut udp = Vec::new();
    for family in Family::ALL {
        let target = vip(WEB, family, Proto::Tcp);
        tcp.push(Pinger::start(HeldTcp::open(client, target, 20)?, Duration::from_millis(1)));
        short.push(Requests::tcp(target).workers(2).rate(200).start(client));
        let requests = Requests::udp(vip(WEB, family, Proto::Udp)).workers(2).rate(200);
        udp.push(requests.timeout(Duration::from_secs(1)).start(client));
    }
    let mut changes = 0;
    for attach in ["clsact", "tcx"].into_iter().cycle().take(8) {
        agent.take().expect("an agent runs").terminate()?;
        agent = Some(stage.world.start_agent(&["--attach", attach])?);
        let status = stage.json("status")?;
        let links = status["links"].as_array().into_iter().flatten();
        let hooks: Vec<_> = links.filter_map(|link| link["hook"].as_str()).collect();
        assert_eq!(hooks, vec![attach; stage.world.pods().len()], "{status}");
        // Each connection makes progress before the next change.
        let rounds = || tcp.iter().map(Pinger::rounds).collect::<Vec<_>>();
        let (before, began) = (rounds(), Instant::now());
        while rounds().iter().zip(&before).any(|(now, before)| *now < before + 2) {
            assert!(began.elapsed() < Duration::from_secs(20), "pings no longer come through");
            sleep(Duration::from_millis(5));
        }
        stage.ask(WEB).assert_clean();
        changes += 1;
    }
    for pinger in tcp {
        let (_, failures) = pinger.stop();
        assert!(failures.is_empty(), "{} connections failed, the first: {}", failures.len(), failures[0]);
    }
    for running in short {
        let report = running.stop();
        println!("{changes} changes of the hook, TCP: {report}");
        let is_unreachable = |kind: &Kind| matches!(kind, Kind::Other(text) if text.contains("unreachable"));
        assert!(report.kinds().keys().all(is_unreachable), "{report}");
        // Both workers may fail in each gap.
        assert!(report.failures.len() <= 2 * changes && report.answered() > 100, "{report}");
    }
    for running in udp {
        let report = running.stop();
        println!("{changes} changes of the hook, UDP: {report}");
        assert!(
            report.kinds().keys().all(|kind| *kind == Kind::TimedOut) && report.answered() > 0,
            "{report}"
        );
    }
    Ok(())
}
