//! Agents that are killed while they create their tables.

use crate::stage::{Stage, WEB, operations};
use anyhow::Result;
use lb_common::names;
use lb_tests::world::Layout;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Instant;

/// The names in a folder; `None` if there is no folder.
fn names_in(folder: &Path) -> Option<BTreeSet<String>> {
    let entries = fs::read_dir(folder).ok()?;
    Some(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

fn all_maps() -> BTreeSet<String> {
    names::MAPS.into_iter().map(String::from).collect()
}

#[test]
fn an_agent_killed_in_its_first_start_leaves_all_tables_or_none() -> Result<()> {
    const ROUNDS: u32 = 8;
    let stage = Stage::new(Layout::routed())?;
    let pins = stage.world.folder().pins();
    let began = Instant::now();
    let mut agent = stage.world.start_agent(&[])?;
    let whole = began.elapsed();
    let (mut none, mut half, mut all) = (0, 0, 0);
    for round in 0..ROUNDS {
        agent.terminate()?;
        stage.world.lb(&["cleanup"])?;
        agent.spawn()?;
        sleep(whole * round / ROUNDS);
        agent.kill()?;
        match names_in(&pins.join("v3")) {
            Some(names) => {
                assert_eq!(names, all_maps(), "round {round}");
                all += 1;
            }
            None => {
                let output = stage.world.lb_output(&["services"])?;
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(!output.status.success() && said.contains("no tables in"), "{said}");
                if pins.join("v3-next").exists() { half += 1 } else { none += 1 }
            }
        }
        agent.start_again()?;
        stage.ask(WEB).assert_clean();
        assert_eq!(names_in(&pins.join("v3")), Some(all_maps()), "round {round}");
        assert!(!pins.join("v3-next").exists(), "round {round}");
    }
    println!(
        "{ROUNDS} kills within {whole:?}: no tables {none} times, incomplete ones {half}, complete ones {all}"
    );
    Ok(())
}

/// The remains of a killed start, made by hand so that each run meets them.
#[test]
fn what_a_killed_start_left_is_cleared_up() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let pins = stage.world.folder().pins();
    let mut agent = stage.world.start_agent(&[])?;
    let first = operations(&agent)?;
    agent.terminate()?;
    // The agent was killed while it created the tables: they are created again.
    fs::rename(pins.join("v3"), pins.join("v3-next"))?;
    fs::remove_file(pins.join("v3-next/frontends"))?;
    agent.start_again()?;
    assert_eq!(operations(&agent)?, first, "fresh tables are filled");
    stage.ask(WEB).assert_clean();
    agent.terminate()?;
    // The agent was killed between the two renames that make new tables current: the tables are complete and are
    // used.
    fs::rename(pins.join("v3"), pins.join("v3-next"))?;
    fs::create_dir(pins.join("v3-old"))?;
    agent.start_again()?;
    assert_eq!(operations(&agent)?, 0, "the tables are as they were");
    assert_eq!(names_in(&pins.join("v3")), Some(all_maps()));
    stage.ask(WEB).assert_clean();
    Ok(())
}
