//! `lb cleanup` removes everything of ours and leaves everything that belongs to others.

use crate::stage::{Stage, TARGET, WEB, vip};
use anyhow::Result;
use lb_common::Proto;
use lb_tests::load::Requests;
use lb_tests::world::{Family, Layout};
use nix::mount::{MntFlags, umount2};
use std::fs;
use std::time::Duration;

/// The filters that are attached to the node's links by clsact, one line each.
fn filters(stage: &Stage) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for pod in stage.world.pods() {
        for direction in ["ingress", "egress"] {
            let shown = stage.world.node().run("tc", &["filter", "show", "dev", &pod.link, direction]);
            let shown = shown.unwrap_or_default();
            lines.extend(shown.lines().filter(|line| line.contains(" name ")).map(String::from));
        }
    }
    Ok(lines)
}

fn is_ours(filter: &str) -> bool {
    ["pod_ingress", "pod_egress", "port_ingress", "port_egress"].iter().any(|name| filter.contains(name))
}

fn qdiscs(stage: &Stage) -> Result<usize> {
    Ok(stage.world.node().run("tc", &["qdisc", "show"])?.matches("clsact").count())
}

/// Asserts that traffic to the Service's address fails and traffic to pods does not.
fn check_without(stage: &Stage) {
    for family in Family::ALL {
        for proto in [Proto::Tcp, Proto::Udp] {
            let client = &stage.world.client().netns;
            let requests =
                |target| Requests::new(proto, target).workers(1).timeout(Duration::from_millis(500));
            let report = requests(vip(WEB, family, proto)).count(2).run(client);
            assert_eq!(report.answered(), 0, "{family:?} {proto}: {report}");
            requests(stage.world.backend(1).at(family, TARGET)).count(3).run(client).assert_clean();
        }
    }
}

/// Cleans up after an agent with these arguments; `theirs` clsact filters of others remain.
fn check_cleanup(layout: Layout, args: &[&str], theirs: usize) -> Result<()> {
    let stage = Stage::new(layout)?;
    let mut agent = stage.world.start_agent(args)?;
    stage.ask(WEB).assert_clean();

    let tables = stage.tables()?;
    let output = stage.world.lb_output(&["cleanup"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "cleanup must fail under a running agent");
    assert!(said.contains("another lb agent") && said.contains("stop it first"), "{said}");
    assert!(stage.tables()? == tables);
    stage.ask(WEB).assert_clean();

    agent.terminate()?;
    let pins = stage.world.folder().pins();
    assert!(pins.join("v3/services").exists());
    stage.world.lb(&["cleanup"])?;
    let left: Vec<_> =
        fs::read_dir(&pins).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    let filters = filters(&stage)?;
    assert!(!filters.iter().any(|filter| is_ours(filter)) && filters.len() == theirs, "{filters:?}");
    assert_eq!(qdiscs(&stage)?, theirs / 2, "a qdisc for each link with programs of others");
    check_without(&stage);

    let output = stage.world.lb_output(&["services"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("no tables in"), "{said}");
    // A second cleanup is not an error, and an agent can start again afterwards.
    stage.world.lb(&["cleanup"])?;
    agent.start_again()?;
    stage.ask(WEB).assert_clean();
    agent.terminate()?;
    stage.world.lb(&["cleanup"])?;
    Ok(())
}

#[test]
fn cleanup_after_tcx() -> Result<()> {
    check_cleanup(Layout::routed(), &["--attach", "tcx"], 0)
}

#[test]
fn cleanup_after_clsact() -> Result<()> {
    check_cleanup(Layout::bridge(true, false), &["--attach", "clsact"], 0)
}

#[test]
fn cleanup_leaves_the_programs_of_others() -> Result<()> {
    // Four pods with two directions each.
    check_cleanup(Layout::routed().with_policy(), &[], 8)
}

#[test]
fn cleanup_unmounts_what_the_agent_mounted() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let pins = stage.world.folder().pins();
    umount2(&pins, MntFlags::empty())?;
    let is_mounted =
        || Ok::<_, std::io::Error>(fs::read_to_string("/proc/mounts")?.contains(&*pins.to_string_lossy()));
    assert!(!is_mounted()?);
    let mut agent = stage.world.start_agent(&[])?;
    assert!(is_mounted()?, "the agent mounts a bpffs if there is none");
    stage.ask(WEB).assert_clean();
    agent.terminate()?;
    assert!(is_mounted()?, "the bpffs stays, because the data path does");
    stage.world.lb(&["cleanup"])?;
    assert!(!is_mounted()? && !pins.exists(), "{}", pins.display());
    check_without(&stage);
    Ok(())
}
