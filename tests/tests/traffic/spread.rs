//! New connections are spread evenly.

use crate::stage::{PROTOS, Stage, service, vip};
use anyhow::Result;
use lb_tests::load::Requests;
use lb_tests::world::{Family, Layout};

#[test]
fn each_backend_has_the_same_chance() -> Result<()> {
    let stage = Stage::new(Layout::routed().with_backends(5))?;
    // The flows of one Service do not influence those of the other.
    for (host, names) in [(10, &["b1", "b2", "b3"][..]), (11, &["b1", "b2", "b3", "b4", "b5"])] {
        stage.apply(&service(&format!("web-{host}"), host).endpoints(stage.backends(names.len())))?;
        for family in Family::ALL {
            for proto in PROTOS {
                let report = Requests::new(proto, vip(family, host)).count(3_000).run(stage.client());
                report.assert_clean();
                report.assert_fair(names);
            }
        }
    }
    Ok(())
}

/// The nine pairs of one choice and the next are equally likely.
#[test]
fn a_chosen_backend_says_nothing_of_the_next() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    stage.apply(&service("web", 10).endpoints(stage.backends(3)))?;
    for proto in PROTOS {
        let mut pairs = lb_tests::load::Report::default();
        let mut one = Requests::new(proto, vip(Family::V4, 10)).count(1).workers(1).run(stage.client());
        for _ in 0..1_200 {
            let next = Requests::new(proto, vip(Family::V4, 10)).count(1).workers(1).run(stage.client());
            next.assert_clean();
            let name =
                |report: &lb_tests::load::Report| report.answers.keys().next().cloned().unwrap_or_default();
            *pairs.answers.entry(name(&one) + name(&next).as_str()).or_default() += 1;
            one = next;
        }
        pairs.assert_fair(&["b1b1", "b1b2", "b1b3", "b2b1", "b2b2", "b2b3", "b3b1", "b3b2", "b3b3"]);
    }
    Ok(())
}
