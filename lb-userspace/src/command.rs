//! The commands of `lb`, a file for each.

pub mod agent;
pub mod args;
pub mod backends;
pub mod check;
pub mod cleanup;
pub mod flows;
mod output;
pub mod services;
pub mod status;
pub mod view;

use std::process::ExitCode;

use anyhow::Context;
use args::Command;

/// Runs a command to its end.
///
/// # Errors
/// The errors of the command.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Agent(args) => runtime()?.block_on(agent::run(*args))?,
        Command::Services(args) => services::run(&args)?,
        Command::Backends(args) => backends::run(&args)?,
        Command::Flows(args) => flows::run(&args)?,
        Command::Status(args) => runtime()?.block_on(status::run(&args))?,
        Command::Check(args) => return runtime()?.block_on(check::run(args)),
        Command::Cleanup(args) => runtime()?.block_on(cleanup::run(args))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")
}
