//! The agent is killed with SIGKILL.

use crate::stage::{SHOP, Stage, WEB, operations, service};
use anyhow::Result;
use lb_tests::world::Layout;
use lb_userspace::objects::name::ServicePortName;
use std::thread::sleep;
use std::time::Duration;

#[test]
fn a_killed_agent_is_not_missed_and_its_restart_writes_nothing() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let mut agent = stage.world.start_agent(&[])?;
    assert!(operations(&agent)? > 0, "the first start fills the tables");
    let tables = stage.tables()?;
    let shown = (stage.json("services")?, stage.json("backends")?);
    let load = stage.load(WEB, 150);
    for round in 0..5 {
        sleep(Duration::from_millis(200));
        agent.kill()?;
        sleep(Duration::from_millis(500));
        agent.start_again()?;
        assert_eq!(operations(&agent)?, 0, "start {round}:\n{}", agent.log());
        sleep(Duration::from_millis(200));
        assert!(stage.tables()? == tables, "start {round} changed a table");
    }
    let answered = load.assert_clean();
    assert!(answered > 500, "only {answered} requests in five rounds");
    assert_eq!((stage.json("services")?, stage.json("backends")?), shown);
    Ok(())
}

/// Wherever in a change the agent dies, it leaves complete tables, and the next start finishes the change.
#[test]
fn an_agent_killed_within_a_change_leaves_whole_tables() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let mut agent = stage.world.start_agent(&[])?;
    let shop = stage.tables()?;
    let load = stage.load(SHOP, 100);
    let web = service("web", WEB);
    for round in 0..12 {
        let endpoints = &stage.world.backends()[..round % 3 + 1];
        stage.write(&web, endpoints)?;
        // The folder is read 50 ms after the change, so the agent is killed before, during, or after the change.
        sleep(Duration::from_millis(44 + 2 * round as u64));
        agent.kill()?;
        stage.ask(WEB).assert_clean();
        agent.start_again()?;
        let expected: Vec<_> = endpoints.iter().map(|pod| format!("{}:8080", pod.v4)).collect();
        assert_eq!(stage.endpoints("web")?, expected, "round {round}:\n{}", agent.log());
        let answers = stage.ask(WEB);
        answers.assert_clean();
        assert!(
            answers.answers.keys().all(|name| endpoints.iter().any(|pod| pod.name == *name)),
            "{answers}"
        );
    }
    load.assert_clean();
    let after = stage.tables()?;
    for (id, name) in shop.names.iter().filter(|(_, name)| {
        ServicePortName::from_table(name).is_some_and(|port| port.name.starts_with("shop"))
    }) {
        assert!(after.names[id] == *name && after.services[id] == shop.services[id], "shop was touched");
    }
    Ok(())
}
