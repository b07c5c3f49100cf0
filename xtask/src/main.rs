//! `cargo xtask <command>`: the commands of this repository, a file for each.

mod architecture;
mod bench;
mod build;
mod cargo;
mod clean;
mod image;
mod lint;
mod outcome;
mod privilege;
mod progress;
mod rooms;
mod run;
mod setup;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    bin_name = "cargo xtask",
    about = "Set-up, build, demo and tests. Each command installs what it needs."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show a Service at work on this machine, or run `lb agent` with the arguments after `--`
    Run(run::Options),
    /// Run lint, then every test
    Test(test::Options),
    /// Build `lb` for release
    Build,
    /// Make the archive of a container image of `lb`
    Image(image::Options),
    /// Check formatting, run clippy on everything, and look for circles of imports
    Lint,
    /// Count rooms (top-level modules), arrows (imports) and circles of each crate
    Rooms(rooms::Options),
    /// Measure nanoseconds per packet; `bench api` measures changes on a real API server, `bench data` whole connections
    Bench(bench::Options),
    /// Remove what was built
    Clean(clean::Options),
}

fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // Not returned from `main`: a backtrace of xtask does not help the person who typed the command.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> Result<()> {
    if !matches!(command, Command::Clean(_) | Command::Rooms(_)) {
        setup::ensure()?;
    }
    match command {
        Command::Run(options) => run::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Build => build::run(),
        Command::Image(options) => image::run(&options),
        Command::Lint => lint::run(),
        Command::Rooms(options) => rooms::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Clean(options) => clean::run(&options),
    }
}
