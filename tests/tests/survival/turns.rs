//! One agent runs at a time: a second one waits, touches nothing, and takes over.

use crate::stage::{SHOP, Stage, WEB, operations, service};
use anyhow::Result;
use lb_tests::world::Layout;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The message of a second agent while the first one runs.
const WAITS: &str = "waiting until it ends";
const LIMIT: Duration = Duration::from_secs(30);

/// Waits until `web` has this number of endpoints.
pub fn wait_for_endpoints(stage: &Stage, count: usize) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while stage.endpoints("web")?.len() != count {
        assert!(Instant::now() < deadline, "no agent applied the change");
        sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[test]
fn a_second_agent_waits_and_takes_over_when_the_first_ends() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let mut first = stage.world.start_agent(&[])?;
    let tables = stage.tables()?;
    let load = stage.load(SHOP, 100);
    let mut second = stage.world.spawn_agent(&[])?;
    second.wait_for_text(WAITS, LIMIT)?;
    let pid = first.pid().expect("the first agent runs");
    let log = second.log();
    assert!(log.contains(&format!("another lb agent (pid {pid}) has")), "{log}");
    assert!(log.contains(&*stage.world.folder().pins().to_string_lossy()), "{log}");
    sleep(Duration::from_millis(500));
    let log = second.log();
    assert!(
        log.matches(WAITS).count() == 1 && !log.contains("attached"),
        "the agent says it once and does nothing: {log}"
    );
    assert!(stage.tables()? == tables);

    // The first agent is still in charge.
    stage.write(&service("web", WEB), &stage.world.backends()[..1])?;
    wait_for_endpoints(&stage, 1)?;
    stage.write(&service("web", WEB), stage.world.backends())?;
    wait_for_endpoints(&stage, 3)?;

    first.terminate()?;
    let ended = Instant::now();
    second.wait_until_ready()?;
    println!("taken over {:?} after the first agent had ended", ended.elapsed());
    assert_eq!(operations(&second)?, 0);
    stage.write(&service("web", WEB), &stage.world.backends()[..2])?;
    wait_for_endpoints(&stage, 2)?;
    load.assert_clean();
    Ok(())
}

/// SIGKILL releases the lock as well; of two waiting agents, one continues to wait.
#[test]
fn the_place_of_a_killed_agent_is_taken_by_one_of_two() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let mut first = stage.world.start_agent(&[])?;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut agent = stage.world.spawn_agent(&[])?;
        agent.wait_for_text(WAITS, LIMIT)?;
        waiting.push(agent);
    }
    first.kill()?;
    let deadline = Instant::now() + LIMIT;
    let is_ready = |agent: &lb_tests::world::Agent| agent.log().contains(" ready ");
    while !waiting.iter().any(is_ready) {
        assert!(Instant::now() < deadline, "no agent took over");
        sleep(Duration::from_millis(5));
    }
    sleep(Duration::from_millis(300));
    assert_eq!(waiting.iter().filter(|agent| is_ready(agent)).count(), 1, "exactly one agent takes over");
    stage.ask(WEB).assert_clean();
    waiting.sort_by_key(|agent| !is_ready(agent));
    // A waiting agent ends on SIGTERM.
    assert!(waiting[1].terminate()?.success(), "{}", waiting[1].log());
    assert!(!waiting[1].log().contains("attached"), "{}", waiting[1].log());
    stage.ask(SHOP).assert_clean();
    Ok(())
}

/// Between the end of an agent and the turn of the next one, a user runs `lb cleanup`: the folder that the agent
/// waits for is gone and is created again.
#[test]
fn a_waiting_agent_survives_a_cleanup() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let mut first = stage.world.start_agent(&[])?;
    let mut second = stage.world.spawn_agent(&[])?;
    second.wait_for_text(WAITS, LIMIT)?;
    let said = stage.world.lb_output(&["cleanup"])?;
    assert!(!said.status.success(), "cleanup must fail while an agent runs");
    first.terminate()?;
    // Either of the two may be faster.
    let cleaned = stage.world.lb_output(&["cleanup"])?;
    second.wait_until_ready()?;
    println!("cleanup was first: {}", cleaned.status.success());
    stage.ask(WEB).assert_clean();
    Ok(())
}
