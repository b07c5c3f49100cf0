//! Session affinity as clients see it.

use crate::removal::wait_until;
use crate::stage::{PROTOS, Stage, service, vip};
use anyhow::Result;
use lb_tests::load::Requests;
use lb_tests::world::{Endpoint, Family, Layout, Netns};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// The one backend that all requests of a client reach. Each call uses ports that no earlier call has used, because a
/// UDP flow of an earlier call would keep its backend.
fn only(netns: &Netns, proto: lb_common::Proto, target: SocketAddr) -> String {
    static CALLS: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + 1_000 * CALLS.fetch_add(1, Relaxed);
    let range = format!("{first} {}", first + 999);
    netns
        .set_sysctls(&[("net/ipv4/ip_local_port_range", &range)])
        .expect("the port range of the client can be set");
    let report = Requests::new(proto, target).count(40).run(netns);
    report.assert_clean();
    assert_eq!(report.answers.len(), 1, "{proto}: {report}");
    report.answers.into_keys().next().expect("one backend answers")
}

#[test]
fn a_client_stays_with_its_endpoint_while_that_is_ready() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let web = service("web", 10).affinity(10_800);
    for family in Family::ALL {
        let target = vip(family, 10);
        stage.apply(&web.clone().endpoints(stage.backends(3)))?;
        for proto in PROTOS {
            let before = only(stage.client(), proto, target);
            assert_eq!(only(stage.client(), proto, target), before);
            // The backend terminates: the client goes to another one and stays there when the first is ready again.
            let all = || stage.backends(3).iter().map(Endpoint::from);
            let without = all().map(|one| if one.pod == before { one.terminating() } else { one });
            stage.apply(&web.clone().endpoints(without))?;
            let other = only(stage.client(), proto, target);
            assert_ne!(other, before);
            stage.apply(&web.clone().endpoints(all()))?;
            assert_eq!(only(stage.client(), proto, target), other);
        }
    }
    Ok(())
}

/// The switch takes effect at once, as the e2e test "should be able to switch session affinity" requires.
#[test]
fn affinity_is_switched_at_run_time() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let web = service("web", 10).endpoints(stage.backends(3));
    let target = vip(Family::V4, 10);
    let is_sticky = |seconds: u64| {
        let rows = stage.json(&["services"]).unwrap_or_default();
        let rows = rows.as_array().cloned().unwrap_or_default();
        let is_so = |row: &serde_json::Value| {
            row["sessionAffinity"]["timeoutSeconds"].as_u64().unwrap_or_default() == seconds
        };
        !rows.is_empty() && rows.iter().all(is_so)
    };
    for _ in 0..2 {
        stage.apply(&web)?;
        wait_until(|| is_sticky(0), "affinity is off");
        let report = Requests::tcp(target).count(300).run(stage.client());
        report.assert_clean();
        report.assert_fair(&["b1", "b2", "b3"]);
        stage.apply(&web.clone().affinity(60))?;
        wait_until(|| is_sticky(60), "affinity is on");
        only(stage.client(), lb_common::Proto::Tcp, target);
    }
    Ok(())
}
