//! `cargo xtask bench api` measures how fast, and at what cost, changes on a real API server reach the packets of a
//! node, next to a bare `kube` client and to kube-proxy in nftables mode. `cargo xtask bench data` measures the packets.
//!
//! For `api`, each population has its own world, with kube-apiserver and etcd on the node. docs/benchmarks.md says what
//! is measured, and how.

mod bare;
mod data;
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

/// Measures the latency and the cost of a change on the API server
#[derive(Parser)]
#[command(name = "lb-bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The highest load average of an idle machine.
const QUIET: f64 = 0.5;

#[derive(Subcommand)]
enum Command {
    /// Measure `lb`, a bare client and kube-proxy on a real API server, and print tables
    Api(Options),
    /// Measure connections, requests and streams by each way to a server, and print tables
    Data(data::Options),
    /// Be the client of `data`
    #[command(hide = true)]
    Client(data::Client),
    /// Watch Services and EndpointSlices, keep nothing, report when the lists are complete: the baseline for `lb`
    #[command(hide = true)]
    BareClient { kubeconfig: PathBuf },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Api(options) => api(&options),
        Command::Data(options) => warn_if_busy().and_then(|()| data::measure(&options)),
        Command::Client(client) => data::run_client(&client),
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

fn warn_if_busy() -> Result<()> {
    let load = usage::load()?;
    if load > QUIET {
        eprintln!("this machine is busy (load average {load}): the figures will be those of a busy machine");
    }
    Ok(())
}

fn api(options: &Options) -> Result<()> {
    let began = Instant::now();
    warn_if_busy()?;
    let (mut all, mut is_whole) = (Vec::new(), true);
    for size in &options.sizes {
        // Complete measurements are shown even if others fail.
        if let Err(error) = round::measure(*size, options, &mut all) {
            eprintln!("{size}: {error:#}");
            is_whole = false;
        }
        println!("{}", results::tables(&all));
        eprintln!("{size}: done {:.1} minutes after the start", began.elapsed().as_secs_f64() / 60.0);
    }
    ensure!(is_whole, "some measurements failed: see above");
    Ok(())
}
