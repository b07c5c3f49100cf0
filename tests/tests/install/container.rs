//! `lb` in a container as the manifest describes it: on the host network, with a few capabilities, the node's bpffs,
//! and a read-only file system that contains nothing else.

use anyhow::{Context, Result};
use lb_tests::container::{Container, capabilities, cgroup};
use lb_tests::echo::Echo;
use lb_tests::load::{Report, Requests};
use lb_tests::world::{Layout, NODE_NAME, Service, World};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

pub const TARGET: u16 = 8_080;

pub fn container(world: &World) -> Result<Container<'_>> {
    Container::new(world, env!("CARGO_BIN_EXE_lb-container"))
}

pub fn web(world: &World) -> Service {
    Service::new("web").vips(10).tcp(80, TARGET).endpoints(world.backends())
}

pub fn echoes(world: &World) -> Result<Vec<Echo>> {
    world.backends().iter().map(|pod| Echo::start(&pod.netns, &pod.name, &[TARGET])).collect()
}

/// Requests from a pod to both addresses of the Service.
pub fn ask(world: &World) -> Report {
    let mut whole = Report::default();
    for vip in ["10.96.0.10:80", "[fd00:10:96::10]:80"] {
        let vip: SocketAddr = vip.parse().expect("an address");
        let requests = Requests::tcp(vip).count(50).workers(2).timeout(Duration::from_secs(2));
        whole.merge(requests.run(&world.client().netns));
    }
    whole
}

const AGENT: [&str; 5] = ["agent", "--manifests", "/manifests", "--node-name", NODE_NAME];

/// Attaches, serves, shows the tables, and cleans up, with exactly the capabilities of the manifest.
fn check(attach: &str) -> Result<()> {
    let world = World::new(Layout::routed())?;
    world.manifests().write(&web(&world))?;
    let _echoes = echoes(&world)?;
    let container = container(&world)?.bind(world.manifests().folder(), "/manifests")?;
    let granted = capabilities()?;
    let mut args = AGENT.to_vec();
    let cgroup = cgroup()?;
    args.extend(["--attach", attach, "--cgroup", &cgroup]);
    let mut agent = container.agent(&granted, &args)?;
    ask(&world).assert_clean();

    let services = container.output(&granted, &["services"])?;
    assert!(services.contains("default/web"), "{services}");
    let status = container.output(&granted, &["status"])?;
    assert!(status.contains("veth-client") && status.contains(attach), "{status}");
    assert!(status.contains("sockets 8 programs on cgroup "), "{status}");

    // The tables outlive the container.
    agent.kill()?;
    ask(&world).assert_clean();
    agent.start_again()?;
    assert!(agent.log().contains("operations=0"), "{}", agent.log());
    agent.terminate()?;
    container.output(&granted, &["cleanup"])?;
    let status = container.output(&granted, &["status"]).expect_err("the tables are removed").to_string();
    assert!(status.contains("no tables in /sys/fs/bpf/lb"), "{status}");
    Ok(())
}

#[test]
fn the_capabilities_of_the_manifest_are_enough_with_tcx() -> Result<()> {
    check("tcx")
}

#[test]
fn the_capabilities_of_the_manifest_are_enough_with_clsact() -> Result<()> {
    check("clsact")
}

#[test]
fn each_capability_of_the_manifest_is_needed_and_named() -> Result<()> {
    let world = World::new(Layout::routed())?;
    world.manifests().write(&web(&world))?;
    let container = container(&world)?.bind(world.manifests().folder(), "/manifests")?;
    let granted = capabilities()?;
    assert!(!granted.is_empty());
    for lacking in &granted {
        let others: Vec<_> = granted.iter().filter(|name| *name != lacking).cloned().collect();
        let args = [&AGENT[..], &["--socket-lb=off"]].concat();
        let output = container.command(&others, &args).output().context("lb-container")?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "the agent runs without {lacking}");
        let named = said.lines().last().unwrap_or_default();
        assert!(named.contains(&format!("{lacking} is missing (")), "{lacking}: {said}");
        assert_eq!(named.matches(" is missing (").count(), 1, "{said}");

        let output = container.command(&others, &["check", "-o", "json"]).output()?;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let found = capability_errors(&output.stdout)?;
        assert!(found.len() == 1 && found[0].starts_with(&format!("{lacking} is missing")), "{found:?}");
    }
    let output = container.command(&granted, &["check", "-o", "json"]).output()?;
    assert_eq!(capability_errors(&output.stdout)?, [""; 0]);
    Ok(())
}

/// What `lb check` finds wrong with capabilities.
fn capability_errors(report: &[u8]) -> Result<Vec<String>> {
    let report: Value = serde_json::from_slice(report)?;
    let lines = report["checks"].as_array().context("checks")?;
    let lines: Vec<_> = lines.iter().filter(|line| line["check"] == "capabilities").collect();
    assert!(!lines.is_empty(), "{report}");
    let errors = lines.iter().filter(|line| line["level"] == "error");
    Ok(errors.filter_map(|line| Some(line["found"].as_str()?.to_owned())).collect())
}
