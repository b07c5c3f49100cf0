//! A pod that is a backend connects to its own Service.

use crate::kinds;
use crate::stage::{PROTOS, Stage, service, vip};
use anyhow::Result;
use lb_tests::load::{Held, HeldTcp, HeldUdp, Kind, Requests, transfer};
use lb_tests::world::{Family, Layout};

/// The pod is the only backend of the Service, so every request returns to the pod that sent it.
fn alone(layout: Layout) -> Result<()> {
    let stage = Stage::new(layout)?;
    stage.apply(&service("alone", 30).endpoints(stage.backends(1)))?;
    let pod = stage.world.backend(1);
    for family in Family::ALL {
        let target = vip(family, 30);
        stage.echo("b1").forget();
        for proto in PROTOS {
            let report = Requests::new(proto, target).count(400).workers(16).run(&pod.netns);
            assert_eq!(report.answers.get("b1"), Some(&400), "{proto}: {report}");
        }
        let sources = stage.echo("b1").sources();
        assert_eq!(sources, [target.ip()], "the pod must not see itself as its peer");
        let mut held = HeldTcp::open(&pod.netns, target, 50)?;
        let mut sockets = HeldUdp::open(&pod.netns, target, 50)?;
        assert_eq!(transfer(&pod.netns, target, 10)?.backend, "b1");
        let failures = [held.ping(), sockets.ping()].concat();
        assert!(failures.is_empty(), "{} failures, the first: {}", failures.len(), failures[0]);
    }
    Ok(())
}

#[test]
fn routed() -> Result<()> {
    alone(Layout::routed())
}

#[test]
fn routed_with_strict_filters() -> Result<()> {
    alone(Layout::routed().with_rp_filter(1))
}

#[test]
fn bridge() -> Result<()> {
    alone(Layout::bridge(false, true))
}

#[test]
fn bridge_with_strict_filters() -> Result<()> {
    alone(Layout::bridge(true, true).with_rp_filter(1))
}

/// Ports of a bridge are not in hairpin mode. NodePort, load balancer address and externalIP turn packets around as
/// the ClusterIP does, although the address of a NodePort is the node's own.
#[test]
fn by_frontends_of_every_kind_behind_a_bridge() -> Result<()> {
    for layout in [Layout::bridge(false, true), Layout::bridge(true, true).with_rp_filter(1)] {
        by_frontends_of_every_kind(layout)?;
    }
    Ok(())
}

#[test]
fn by_frontends_of_every_kind_beside_a_policy() -> Result<()> {
    for layout in [Layout::routed().with_policy(), Layout::bridge(false, false).with_policy()] {
        by_frontends_of_every_kind(layout)?;
    }
    Ok(())
}

fn by_frontends_of_every_kind(layout: Layout) -> Result<()> {
    let stage = Stage::new(layout)?;
    let pod = stage.world.backend(1);
    kinds::serve(&stage, Family::ALL.map(|family| pod.ip(family)))?;
    for family in Family::ALL {
        for target in kinds::frontends(family)? {
            stage.echo("b1").forget();
            for proto in PROTOS {
                let report = Requests::new(proto, target).count(50).run(&pod.netns);
                assert_eq!(report.answers.get("b1"), Some(&50), "{proto} {target}: {report}");
            }
            assert_eq!(stage.echo("b1").sources(), [target.ip()], "{target}");
            // Another pod uses the same address.
            Requests::tcp(target).count(50).run(stage.client()).assert_clean();
        }
    }
    Ok(())
}

#[test]
fn a_backend_among_others_reaches_all_of_them() -> Result<()> {
    let stage = Stage::new(Layout::routed().with_rp_filter(1))?;
    stage.apply(&service("web", 10).endpoints(stage.backends(3)))?;
    for family in Family::ALL {
        for proto in PROTOS {
            let report = Requests::new(proto, vip(family, 10)).count(600).run(&stage.world.backend(2).netns);
            report.assert_clean();
            report.assert_fair(&["b1", "b2", "b3"]);
        }
    }
    Ok(())
}

#[test]
fn a_pod_that_is_no_longer_a_backend_learns_it() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let web = service("web", 10);
    let pod = &stage.world.backend(1).netns;
    for family in Family::ALL {
        stage.apply(&web.clone().endpoints(stage.backends(1)))?;
        let mut tcp = HeldTcp::open(pod, vip(family, 10), 5)?;
        let mut udp = HeldUdp::open(pod, vip(family, 10), 5)?;
        stage.apply(&web.clone().endpoints([stage.world.backend(2)]))?;
        let kinds: Vec<Kind> = tcp.ping().into_iter().map(|failure| failure.kind).collect();
        assert_eq!(kinds, vec![Kind::Reset; 5]);
        let kinds: Vec<Kind> = udp.ping().into_iter().map(|failure| failure.kind).collect();
        assert_eq!(kinds, vec![Kind::OtherBackend("b2".into()); 5]);
    }
    Ok(())
}
