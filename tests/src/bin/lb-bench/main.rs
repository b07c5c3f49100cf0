//! `cargo xtask bench api`: how fast, and at what cost, changes on a real API server reach the packets of a node;
//! beside a bare `kube` client, and beside kube-proxy in nftables mode.
//!
//! One world with kube-apiserver and etcd on its node, for each population. What is measured, and how, is in
//! docs/benchmarks.md.

mod bare;
mod options;
mod population;
mod probe;
mod results;
mod round;
mod subject;
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use options::Options;

/// Measures what a change on the API server takes and costs
#[derive(Parser)]
#[command(name = "lb-bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// A load average that is nobody's work.
const QUIET: f64 = 0.5;

#[derive(Subcommand)]
enum Command {
    /// Measure `lb`, a bare client and kube-proxy on a real API server, and print tables
    Api(Options),
    /// Follow Services and EndpointSlices, keep nothing, say when the lists are whole: what `lb` is compared with
    #[command(hide = true)]
    BareClient { kubeconfig: PathBuf },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Api(options) => api(&options),
        Command::BareClient { kubeconfig } => bare::run(&kubeconfig),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn api(options: &Options) -> Result<()> {
    let began = Instant::now();
    let load = usage::load()?;
    if load > QUIET {
        eprintln!("this machine is busy (load average {load}): the figures are those of a busy machine");
    }
    let (mut all, mut is_whole) = (Vec::new(), true);
    for size in &options.sizes {
        // What was measured is shown, whatever becomes of the rest.
        if let Err(error) = round::measure(*size, options, &mut all) {
            eprintln!("{size}: {error:#}");
            is_whole = false;
        }
        println!("{}", results::tables(&all));
        eprintln!("{size}: done {:.1} minutes after the start", began.elapsed().as_secs_f64() / 60.0);
    }
    ensure!(is_whole, "not all was measured: see above");
    Ok(())
}
