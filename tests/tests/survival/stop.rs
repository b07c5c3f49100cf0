//! SIGTERM, and operation without an agent.

use crate::stage::{SHOP, Stage, WEB, operations, service};
use anyhow::Result;
use lb_tests::world::Layout;
use lb_userspace::objects::name::ServicePortName;
use std::thread::sleep;
use std::time::Duration;

#[test]
fn the_data_path_and_the_commands_work_without_an_agent() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let mut agent = stage.world.start_agent(&[])?;
    let alive = (stage.json("services")?, stage.json("backends")?);
    let load = stage.load(WEB, 100);
    assert!(agent.terminate()?.success(), "SIGTERM is a normal end:\n{}", agent.log());
    load.wait_for(400)?;
    assert!(load.assert_clean() > 200);
    stage.ask(SHOP).assert_clean();

    assert_eq!((stage.json("services")?, stage.json("backends")?), alive);
    let flows = stage.json("flows")?;
    let of_web =
        |flow: &serde_json::Value| flow["service"].as_str().is_some_and(|s| s.contains("default/web"));
    assert!(flows.as_array().is_some_and(|flows| flows.iter().any(of_web)), "{flows}");
    let status = stage.json("status")?;
    assert_eq!(status["agentRunning"], false);
    let hooked =
        status["links"].as_array().into_iter().flatten().filter(|link| link["hook"] == "tcx").count();
    assert_eq!(hooked, stage.world.pods().len(), "{status}");
    for (command, word) in [
        ("services", "web"),
        ("backends", "10.244.1.11:8080"),
        ("flows", "default/web"),
        ("status", "not running"),
    ] {
        let text = stage.world.lb(&[command])?;
        assert!(text.contains(word), "lb {command}:\n{text}");
    }
    Ok(())
}

#[test]
fn edits_made_while_the_agent_was_dead_are_applied_and_only_those() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let mut agent = stage.world.start_agent(&[])?;
    let first = operations(&agent)?;
    let before = stage.tables()?;
    agent.terminate()?;
    let load = stage.load(SHOP, 50);
    stage.write(&service("web", WEB), &stage.world.backends()[..1])?;
    sleep(Duration::from_millis(300));
    assert_eq!(stage.endpoints("web")?.len(), 3, "no agent is there to apply the change");
    agent.start_again()?;
    assert_eq!(stage.endpoints("web")?, ["10.244.1.11:8080"]);
    let second = operations(&agent)?;
    assert!(second > 0 && second < first, "{second} operations for one edit, {first} for all");
    assert!(stage.ask(WEB).answers.keys().eq(["b1"]));
    load.assert_clean();

    let after = stage.tables()?;
    let is_shop = |id: &u32| {
        ServicePortName::from_table(&before.names[id]).is_some_and(|port| port.name.starts_with("shop"))
    };
    assert_eq!(before.names.keys().filter(|id| is_shop(id)).count(), 4, "two ports in two families");
    for id in before.names.keys().filter(|id| is_shop(id)) {
        assert!(after.services[id] == before.services[id], "shop's record was touched");
        for range in [before.record(*id).cluster, before.record(*id).local] {
            assert!(after.slots_of(range) == before.slots_of(range), "shop's slots were touched");
        }
    }
    let of_shop = |(_, backend): &(&u32, &lb_common::Backend)| is_shop(&backend.service);
    assert!(
        before.backends.iter().filter(of_shop).eq(after.backends.iter().filter(of_shop)),
        "shop's backends were touched"
    );
    Ok(())
}
