//! `cargo xtask test` runs lint and then every test, those of `lb-tests` as root, and prints a plain summary.

mod kernels;
mod lanes;
mod plan;

use std::{
    io,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;

use self::plan::{Job, Plan};
use crate::{
    architecture::Architecture,
    cargo, image, lint,
    outcome::{Outcome, slowest},
    privilege::{as_root, environment},
    setup,
};

/// The time limit of one test program, in seconds. Every process that the program started ends with it.
const LIMIT: &str = "1200";

/// How many of the slowest tests are named.
const SLOWEST: usize = 10;

#[derive(Args)]
pub struct Options {
    /// Run only tests whose name contains this, without lint and doc tests
    #[arg(long)]
    filter: Option<String>,
    /// Run the tests that concern the kernel on other kernels, in guests of QEMU; nothing else runs
    #[arg(long, value_name = "SERIES", conflicts_with = "filter")]
    kernel: Option<kernels::Which>,
    /// Build for this architecture, and run what a guest of the architecture can run
    #[arg(long, requires = "kernel")]
    arch: Option<Architecture>,
}

pub fn run(options: &Options) -> Result<()> {
    let begun = Instant::now();
    let mut outcomes = Vec::new();
    if let Some(kernel) = options.kernel {
        outcomes.extend(kernels::run(kernel, Architecture::chosen(options.arch)?)?);
        return end(&outcomes, begun.elapsed());
    }
    if options.filter.is_none() {
        outcomes.push(step("lint", lint::run));
    }
    let servers = step("test control plane", || {
        setup::control_plane::ensure().and_then(|()| setup::control_plane::ensure_rules())
    });
    outcomes.extend((servers.failed > 0).then_some(servers));
    if let Err(error) = every_program(options, &mut outcomes) {
        outcomes.push(Outcome::of_step("build", Err(error), Duration::ZERO));
    }
    end(&outcomes, begun.elapsed())
}

fn end(outcomes: &[Outcome], time: Duration) -> Result<()> {
    if !summarize(outcomes, time) {
        // The summary comes last, so no error follows it.
        std::process::exit(1);
    }
    Ok(())
}

fn step(title: &str, work: impl FnOnce() -> Result<()>) -> Outcome {
    let begun = Instant::now();
    Outcome::of_step(title, work(), begun.elapsed())
}

fn every_program(options: &Options, outcomes: &mut Vec<Outcome>) -> Result<()> {
    let begun = Instant::now();
    let programs = cargo::build(&["--workspace", "--bins", "--tests"])?;
    let lb = cargo::find(&programs, "lb")?;
    let image = image::make(lb, &image::name(), Architecture::host()?)?;
    println!("built in {:.0} s", begun.elapsed().as_secs_f64());

    let plan = Plan::new(&programs, options.filter.as_deref());
    let command = |job: &Job| command(job, lb, &image);
    outcomes.extend(lanes::side_by_side(&plan.side_by_side, command, io::stdout()));
    outcomes.extend(plan.alone.iter().map(|job| lanes::alone(job, command)));
    if options.filter.is_none() {
        outcomes.extend(kernels::oldest(&programs));
        println!("\n== doc tests");
        let mut doc = cargo::release("test")?;
        doc.args(["--workspace", "--doc", "--quiet"]);
        outcomes.push(lanes::watch("doc tests", doc, &mut io::stdout())?);
    }
    Ok(())
}

fn command(job: &Job, lb: &Path, image: &Path) -> Result<Command> {
    let mut environment = environment();
    let folder = (&job.package).into();
    environment.extend([("LB_BIN", lb.into()), ("LB_IMAGE", image.into()), ("CARGO_MANIFEST_DIR", folder)]);
    // `timeout` ends the whole process group, and gets SIGTERM when this process is gone.
    let wrapper = "setpriv";
    let mut command = if job.needs_root {
        as_root(wrapper, &environment)?
    } else {
        let mut command = Command::new(wrapper);
        command.envs(environment);
        command
    };
    command.args(["--pdeathsig", "TERM", "timeout", "--kill-after=10", LIMIT]).arg(&job.file);
    command.args(&job.arguments).current_dir(&job.package);
    Ok(command)
}

/// Prints the outcome of each program, the slowest tests and the whole time; returns true if something ran and nothing
/// failed.
fn summarize(outcomes: &[Outcome], time: Duration) -> bool {
    let sum = |count: fn(&Outcome) -> u32| outcomes.iter().map(count).sum::<u32>();
    let (passed, failed) = (sum(|outcome| outcome.passed), sum(|outcome| outcome.failed));
    println!("\nSummary");
    for outcome in outcomes.iter().filter(|outcome| outcome.passed + outcome.failed > 0) {
        println!("{outcome}");
    }
    println!("\nThe slowest tests");
    for (title, test) in slowest(outcomes, SLOWEST) {
        println!("{:7.1} s  {title}: {}", test.time.as_secs_f64(), test.name);
    }
    println!("\nThe whole run took {} min {} s.", time.as_secs() / 60, time.as_secs() % 60);
    if passed + failed == 0 {
        println!("no test ran: no test has this text in its name");
    }
    println!("{passed} passed, {failed} failed");
    failed == 0 && passed > 0
}
