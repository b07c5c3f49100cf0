//! One agent at a time: a second one waits, touches nothing, and takes over.

use crate::stage::{SHOP, Stage, WEB, operations, service};
use anyhow::Result;
use lb_tests::world::Layout;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What a second agent says while the first one runs.
const WAITS: &str = "waiting until it ends";
const LIMIT: Duration = Duration::from_secs(30);

/// Until `web` has so many endpoints.
pub fn wait_for_endpoints(stage: &Stage, count: usize) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while stage.endpoints("web")?.len() != count {
        assert!(Instant::now() < deadline, "nobody applied the change");
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
    let pid = first.pid().expect("it runs");
    let log = second.log();
    assert!(log.contains(&format!("another lb agent (pid {pid}) has")), "{log}");
    assert!(log.contains(&*stage.world.folder().pins().to_string_lossy()), "{log}");
    sleep(Duration::from_millis(500));
    let log = second.log();
    assert!(
        log.matches(WAITS).count() == 1 && !log.contains("attached"),
        "said once, and nothing done: {log}"
    );
    assert!(stage.tables()? == tables);

    // The first one is in charge as before.
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

/// SIGKILL gives the lock back as well; and of two that wait, one goes on waiting.
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
        assert!(Instant::now() < deadline, "nobody took over");
        sleep(Duration::from_millis(5));
    }
    sleep(Duration::from_millis(300));
    assert_eq!(waiting.iter().filter(|agent| is_ready(agent)).count(), 1, "one at a time");
    stage.ask(WEB).assert_clean();
    waiting.sort_by_key(|agent| !is_ready(agent));
    // One that waits ends when it is told to.
    assert!(waiting[1].terminate()?.success(), "{}", waiting[1].log());
    assert!(!waiting[1].log().contains("attached"), "{}", waiting[1].log());
    stage.ask(SHOP).assert_clean();
    Ok(())
}

/// Between the end of an agent and the turn of the next one, somebody cleans up: the folder that was waited for
/// is gone, and made anew.
#[test]
fn a_waiting_agent_survives_a_cleanup() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let mut first = stage.world.start_agent(&[])?;
    let mut second = stage.world.spawn_agent(&[])?;
    second.wait_for_text(WAITS, LIMIT)?;
    let said = stage.world.lb_output(&["cleanup"])?;
    assert!(!said.status.success(), "an agent runs");
    first.terminate()?;
    // Either may be the quicker one.
    let cleaned = stage.world.lb_output(&["cleanup"])?;
    second.wait_until_ready()?;
    println!("cleanup was first: {}", cleaned.status.success());
    stage.ask(WEB).assert_clean();
    Ok(())
}
