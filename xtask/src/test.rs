//! `cargo xtask test`: lint, then every test, those of `lb-tests` as root; a plain summary at the end.

mod outcome;

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use clap::Args;
use xtask::toolchain;

use self::outcome::Outcome;
use crate::{
    cargo::{self, Program},
    image, lint,
    privilege::{as_root, environment},
    setup,
};

/// For one test program, in seconds. The rest of what it started ends with it.
const LIMIT: &str = "1200";

#[derive(Args)]
pub struct Options {
    /// Only tests whose name contains this; neither lint nor doc tests
    #[arg(long)]
    filter: Option<String>,
}

pub fn run(options: &Options) -> Result<()> {
    let mut outcomes = Vec::new();
    if options.filter.is_none() {
        outcomes.push(Outcome::of_step("lint", lint::run()));
    }
    if let Err(error) = setup::control_plane::ensure().and_then(|()| setup::control_plane::ensure_rules()) {
        outcomes.push(Outcome::of_step("test control plane", Err(error)));
    }
    if let Err(error) = every_program(options, &mut outcomes) {
        outcomes.push(Outcome::of_step("build", Err(error)));
    }
    if !summarize(&outcomes) {
        // The summary is the last word, so no error follows it.
        std::process::exit(1);
    }
    Ok(())
}

fn every_program(options: &Options, outcomes: &mut Vec<Outcome>) -> Result<()> {
    let programs = cargo::build(&["--workspace", "--bins", "--tests"])?;
    let lb = cargo::find(&programs, "lb")?;
    let image = image::make(lb, &image::name())?;
    let mut tests: Vec<&Program> = programs.iter().filter(|program| program.is_test).collect();
    // Cheap ones first, and the same order each time.
    tests.sort_by_key(|test| (needs_root(test), title(test)));

    for test in tests {
        println!("\n== {}", title(test));
        outcomes.push(watch(&title(test), &mut command(test, lb, &image, options)?)?);
    }
    if options.filter.is_none() {
        println!("\n== doc tests");
        let mut doc = cargo::release("test")?;
        outcomes.push(watch("doc tests", doc.args(["--workspace", "--doc", "--quiet"]))?);
    }
    Ok(())
}

/// Programs, maps and network namespaces are root's.
fn needs_root(test: &Program) -> bool {
    test.package == toolchain::root().join("tests")
}

fn title(test: &Program) -> String {
    let folder = test.package.file_name().unwrap_or_default().to_string_lossy();
    match test.kind.as_str() {
        "test" => format!("{folder}/{}", test.name),
        kind => format!("{folder} ({kind})"),
    }
}

fn command(test: &Program, lb: &Path, image: &Path, options: &Options) -> Result<Command> {
    let mut environment = environment();
    let folder = (&test.package).into();
    environment.extend([("LB_BIN", lb.into()), ("LB_IMAGE", image.into()), ("CARGO_MANIFEST_DIR", folder)]);
    // `timeout` ends the whole process group; it gets the word when this process is gone.
    let wrapper = "setpriv";
    let mut command = if needs_root(test) {
        as_root(wrapper, &environment)?
    } else {
        let mut command = Command::new(wrapper);
        command.envs(environment);
        command
    };
    command.args(["--pdeathsig", "TERM", "timeout", "--kill-after=10", LIMIT]).arg(&test.file);
    // Worlds and the machine's CPUs are not to be shared.
    command.args(needs_root(test).then_some("--test-threads=1")).args(&options.filter);
    command.current_dir(&test.package);
    Ok(command)
}

/// Shows what a test program prints, and counts.
fn watch(title: &str, command: &mut Command) -> Result<Outcome> {
    let program = command.get_program().to_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} does not start", OsStr::display(&program)))?;
    let mut outcome = Outcome::new(title);
    let output = child.stdout.take().context("a piped stdout")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        std::io::stdout().flush()?;
        outcome.read(&line);
    }
    outcome.end(child.wait()?);
    Ok(outcome)
}

/// Whether all is well: something ran, and nothing failed.
fn summarize(outcomes: &[Outcome]) -> bool {
    let sum = |count: fn(&Outcome) -> u32| outcomes.iter().map(count).sum::<u32>();
    let (passed, failed) = (sum(|outcome| outcome.passed), sum(|outcome| outcome.failed));
    println!("\nSummary");
    for outcome in outcomes.iter().filter(|outcome| outcome.passed + outcome.failed > 0) {
        println!("{outcome}");
    }
    if passed + failed == 0 {
        println!("no test ran: does any have this in its name?");
    }
    println!("{passed} passed, {failed} failed");
    failed == 0 && passed > 0
}
