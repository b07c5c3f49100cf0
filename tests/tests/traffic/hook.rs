//! Links that come, go and return, and the programs of others on them.

use crate::stage::{PROTOS, Stage, service, vip};
use anyhow::{Context, Result};
use aya::maps::{HashMap, MapData};
use lb_tests::load::{Held, HeldUdp, Requests, transfer};
use lb_tests::world::{Family, Layout, Pod, World};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Longer than the machine may stall.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Asserts that all three backends answer this pod.
fn assert_answered(stage: &Stage, from: &Pod) {
    for family in Family::ALL {
        for proto in PROTOS {
            let report = Requests::new(proto, vip(family, 10)).count(100).timeout(TIMEOUT).run(&from.netns);
            report.assert_clean();
            assert_eq!(report.answers.len(), 3, "all of {:?} must answer: {report}", stage.echoes.keys());
        }
    }
}

#[test]
fn a_link_that_appears_later_is_attached_by_itself() -> Result<()> {
    for (layout, attach, hook) in [
        (Layout::routed(), "auto", "tcx"),
        (Layout::bridge(false, true), "auto", "tcx"),
        (Layout::routed(), "clsact", "clsact"),
    ] {
        let stage = Stage::with_args(layout.with_clients(2), &["--attach", attach])?;
        stage.apply(&service("web", 10).endpoints(stage.backends(3)))?;
        let (late, world) = (stage.world.pod("client2"), &stage.world);
        // The first round has a pod that is new to the agent, the second one whose link name the agent knows.
        for _ in 0..2 {
            world.unplug(late)?;
            assert!(!stage.hooks()?.contains_key(&late.link));
            world.plug(late)?;
            stage.wait_for_hooks(hook)?;
            assert_answered(&stage, late);
        }
        assert_answered(&stage, world.client());
    }
    Ok(())
}

#[test]
fn a_link_that_returns_while_the_agent_is_away_is_attached_at_its_start() -> Result<()> {
    let mut stage = Stage::new(Layout::routed())?;
    stage.apply(&service("web", 10).endpoints(stage.backends(3)))?;
    stage.agent.kill()?;
    let client = stage.world.client();
    stage.world.unplug(client)?;
    stage.world.plug(client)?;
    stage.agent.start_again()?;
    assert_eq!(stage.hooks()?, stage.hooks_of_all_pods("tcx"));
    assert_answered(&stage, client);
    Ok(())
}

#[test]
fn a_backend_whose_link_returns_answers_again() -> Result<()> {
    let stage = Stage::new(Layout::bridge(false, true))?;
    stage.apply(&service("web", 10).endpoints(stage.backends(3)))?;
    assert_answered(&stage, stage.world.client());
    let pod = stage.world.backend(2);
    stage.world.unplug(pod)?;
    stage.world.plug(pod)?;
    stage.wait_for_hooks("tcx")?;
    assert_answered(&stage, stage.world.client());
    assert_answered(&stage, pod);
    Ok(())
}

#[test]
fn a_policy_that_comes_later_moves_us_to_its_hook() -> Result<()> {
    for layout in [Layout::routed(), Layout::bridge(false, true)] {
        let mut stage = Stage::new(layout)?;
        stage.apply(&service("web", 10).endpoints(stage.backends(3)))?;
        assert_eq!(stage.hooks()?, stage.hooks_of_all_pods("tcx"));
        // The test holds UDP only: in the middle of a TCP connection such a policy knows neither side, with or
        // without us.
        let open = |family| HeldUdp::open(stage.client(), vip(family, 10), 10);
        let mut held = [open(Family::V4)?, open(Family::V6)?];
        stage.world.add_policy()?;
        stage.wait_for_hooks("clsact")?;
        assert_answered(&stage, stage.world.client());
        let failures: Vec<_> = held.iter_mut().flat_map(HeldUdp::ping).collect();
        assert!(failures.is_empty(), "{} failures, the first: {}", failures.len(), failures[0]);
    }
    Ok(())
}

/// A program between us and the pod's stack must see a connection with the addresses of its two pods in both
/// directions; otherwise it does not recognize a reply.
#[test]
fn a_policy_sees_both_directions_translated() -> Result<()> {
    let stage = Stage::new(Layout::routed().with_policy())?;
    stage.apply(&service("web", 10).endpoints(stage.backends(3)))?;
    let client = stage.world.client();
    for family in Family::ALL {
        for proto in PROTOS {
            Requests::new(proto, vip(family, 10)).count(100).run(&client.netns).assert_clean();
        }
        transfer(&client.netns, vip(family, 10), 1)?;
        let seen = seen_by_policy(&stage.world)?;
        for backend in stage.world.backends() {
            let (near, far) = (client.ip(family), backend.ip(family));
            assert!(seen.contains(&(near, far)) && seen.contains(&(far, near)), "{near}, {far}: {seen:?}");
        }
        let service = vip(family, 10).ip();
        assert!(seen.iter().all(|(from, to)| *from != service && *to != service), "{seen:?}");
    }
    Ok(())
}

/// Source and destination of the packets that the toy policy has seen leave pods. The key is its `Tuple`: two
/// addresses of 16 bytes, then ports, protocol and an offset.
fn seen_by_policy(world: &World) -> Result<BTreeSet<(IpAddr, IpAddr)>> {
    let policy = world.policy().context("the layout has no policy")?;
    let map = policy.map("policy_seen").context("the policy has no such table")?;
    let table: HashMap<&MapData, [u8; 40], u32> = HashMap::try_from(map)?;
    let mut seen = BTreeSet::new();
    for key in table.keys() {
        let key = key?;
        let address = |at: usize| {
            let bytes: [u8; 16] = std::array::from_fn(|i| key[at + i]);
            Ipv6Addr::from(bytes).to_canonical()
        };
        seen.insert((address(0), address(16)));
    }
    Ok(seen)
}
