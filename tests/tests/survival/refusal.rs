//! The messages of an `lb` that cannot do what it was asked to do, and that it then does nothing.

use crate::stage::{SHOP, Stage, WEB};
use anyhow::{Context, Result};
use lb_tests::world::{Layout, lb_binary};
use std::fs;
use std::path::Path;
use std::process::Output;

/// A user that owns nothing here.
const NOBODY: &str = "65534";

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_unknown_flag_is_named() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let mut agent = stage.world.start_agent(&[])?;
    agent.kill()?;
    for command in ["agent", "services", "cleanup"] {
        let output = stage.world.lb_output(&[command, "--no-such-flag"])?;
        let said = said(&output);
        assert!(output.status.code() == Some(2) && said.contains("--no-such-flag"), "{command}: {said}");
        assert!(said.contains("Usage: lb"), "{said}");
    }
    let output =
        stage.world.lb_output(&["agent", "--node-name", "n", "--manifests", ".", "--attach", "tape"])?;
    assert!(output.status.code() == Some(2) && said(&output).contains("tcx, clsact"), "{}", said(&output));
    stage.ask(WEB).assert_clean();
    Ok(())
}

#[test]
fn without_root_the_message_says_so() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    stage.world.start_agent(&[])?.terminate()?;
    let manifests = stage.world.folder().manifests();
    let before = pins(&stage.world.folder().pins())?;
    // A copy that this user may execute, wherever the build is.
    let binary = stage.world.folder().path().join("lb");
    fs::copy(lb_binary()?, &binary).context("copy lb")?;
    let run = |args: &[&str]| {
        let mut command = stage.world.node().command("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(&binary).args(args);
        command.arg("--pin-dir").arg(stage.world.folder().pins()).env("NO_COLOR", "1");
        command.output().context("setpriv (package util-linux)")
    };
    let folder = manifests.to_string_lossy();
    let agent_args = ["agent", "--socket-lb=off", "--node-name", "node-1", "--manifests", &*folder];
    for args in [&["services"][..], &["backends"], &["flows"], &["status"], &["cleanup"], &agent_args] {
        let output = run(args)?;
        let said = said(&output);
        assert!(!output.status.success() && said.contains("root"), "lb {}: {said}", args[0]);
        assert!(!said.contains("panicked"), "{said}");
    }
    let output = run(&["services", "--manifests", &folder, "--node-name", "node-1"])?;
    assert!(output.status.success(), "files need no root: {}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("web"));
    assert_eq!(pins(&stage.world.folder().pins())?, before);
    stage.ask(WEB).assert_clean();
    Ok(())
}

/// The names in a folder and in its subfolders.
fn pins(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        names.push(path.display().to_string());
        if path.is_dir() {
            names.extend(pins(&path)?);
        }
    }
    names.sort();
    Ok(names)
}

#[test]
fn a_map_of_another_shape_is_refused_and_nothing_is_lost() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let mut agent = stage.world.start_agent(&[])?;
    agent.terminate()?;
    let load = stage.load(SHOP, 30);
    let root = stage.world.folder().pins();
    let map = root.join("v3/backend_stats");
    fs::remove_file(&map)?;
    let path = map.to_string_lossy();
    let create =
        ["map", "create", &path, "type", "array", "key", "4", "value", "16", "entries", "8", "name", "other"];
    stage.world.node().run("bpftool", &create)?;
    let before = pins(&root)?;

    agent.spawn()?;
    let failed = agent.wait_until_ready().expect_err("the agent cannot start").to_string();
    for word in [&*path, "of another shape", "16", "`lb cleanup` removes all tables"] {
        assert!(failed.contains(word), "{word}: {failed}");
    }
    assert!(!failed.contains("panicked"), "{failed}");
    for command in ["services", "backends", "flows", "status"] {
        let output = stage.world.lb_output(&[command])?;
        let said = said(&output);
        assert!(
            !output.status.success() && said.contains(&*path) && said.contains("another shape"),
            "{said}"
        );
    }
    assert_eq!(pins(&root)?, before, "nothing was created or removed");
    load.assert_clean();
    stage.ask(WEB).assert_clean();

    stage.world.lb(&["cleanup"])?;
    let _agent = stage.world.start_agent(&[])?;
    stage.ask(WEB).assert_clean();
    Ok(())
}
