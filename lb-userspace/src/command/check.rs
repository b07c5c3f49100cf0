//! `lb check`: whether this node can run `lb agent`, and what is in the way. The command changes nothing, and reports
//! what it cannot see.

mod api;
mod config;
mod forward;
mod kernel;
mod line;
mod links;
mod memory;
mod mounts;
mod network;
mod options;
mod ports;
mod proxy;
mod rights;

use std::process::ExitCode;

use serde::Serialize;

use super::args::CheckArgs;
use super::output::print;
use crate::config::Flags;
use crate::dataplane::pins::Pins;
use crate::node::netdev::Netdev;
use crate::source::api::Access;
use line::{Level, Line, unseen};
use options::Options;

/// Prints what was found. The exit code is a failure if the agent cannot run.
///
/// # Errors
/// If standard output cannot be written.
pub async fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let CheckArgs { pins, roles, api, config, sizes, output } = args;
    let options = Options {
        pins: Pins::new(&pins.pin_dir),
        roles: roles.overrides(),
        flags: Flags { config, kubeconfig: api.kubeconfig.clone(), ..Flags::default() },
        api: api.access(),
        sizes: sizes.sizes(),
    };
    let report = look(&options).await;
    print(output.output, &report, || text(&report))?;
    // The report says everything; no message is added.
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The report as `lb check -o json` shows it (docs/output.md).
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether no line is an error.
    pub ok: bool,
    pub checks: Vec<Line>,
}

/// Makes all checks, in the network namespace of the calling thread.
async fn look(options: &Options) -> Report {
    let mut checks = rights::check();
    let may_try = checks.iter().all(|line| line.level == Level::Ok);
    let (lines, settings) = config::check(&options.flags);
    checks.extend(lines);
    checks.extend(kernel::check(may_try, options));
    checks.extend(mounts::check(&options.pins));
    checks.push(memory::check(options));
    match Netdev::connect() {
        Ok((netdev, _)) => {
            checks.extend(links::check(&netdev, options).await);
            checks.extend(network::check(&netdev, &options.roles).await);
            checks.extend(forward::check());
            checks.extend(proxy::check(&netdev).await);
        }
        Err(error) => checks.push(unseen("links", &format_args!("{error:#}"))),
    }
    if let Some(settings) = &settings {
        checks.extend(ports::check(&options.pins, settings));
    }
    let kubeconfig = settings.and_then(|settings| settings.kubeconfig);
    let api = Access { kubeconfig, ..options.api.clone() };
    checks.extend(api::check(&options.pins, api).await);
    Report { ok: checks.iter().all(|line| line.level != Level::Error), checks }
}

/// The report for people: a line for each finding, and below it what to do.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    for Line { check, level, found, advice } in &report.checks {
        text += &format!("{:7}  {check:12}  {found}\n", level.name());
        if let Some(advice) = advice {
            text += &format!("{:7}  {:12}  -> {advice}\n", "", "");
        }
    }
    let count = |level| report.checks.iter().filter(|line| line.level == level).count();
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    let verdict = if report.ok { "this node can run lb" } else { "this node cannot run lb as it is" };
    text + &format!("\n{verdict}: errors {errors}, warnings {warnings}\n")
}
