//! `cargo xtask run` shows Services at work, without a cluster.
//!
//! The demo makes a node, a client and backends in network namespaces. It runs `lb agent` on the node, with a folder of
//! manifests or a real Kubernetes API as the source, and sends real TCP and UDP requests to every Service found there.

mod live;
mod services;
mod source;
mod stage;
mod stop;
mod table;
mod traffic;
mod verdict;

use anyhow::Result;
use clap::Parser;
use services::Asker;
use stage::Stage;
use std::path::PathBuf;
use std::process::ExitCode;

/// Shows Services at work in network namespaces
#[derive(Parser)]
#[command(name = "lb-demo")]
struct Args {
    /// The `lb` to show; by default the one next to this program
    #[arg(long)]
    lb: Option<PathBuf>,
    /// End after the first rounds of requests; fail unless each request was answered by a backend of the right Service,
    /// or refused if the Service has none
    #[arg(long)]
    once: bool,
    /// Keep the objects on a kube-apiserver instead of in a folder
    #[arg(long)]
    api: bool,
    /// Folder of the manifests to start with; they are copied
    #[arg(long, default_value = "examples")]
    examples: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns true if every request was answered as it should be.
fn run(args: &Args) -> Result<bool> {
    stop::listen()?;
    let stage = Stage::set(args.lb.as_deref(), &args.examples, args.api)?;
    println!("{stage}");
    let mut is_clean = true;
    for asker in Asker::ALL {
        let outcome = traffic::round(&stage, asker)?;
        print!("{outcome}");
        is_clean &= outcome.is_clean();
    }
    println!("\n{}", stage.world.lb(&["services"])?);
    if !args.once && !stop::is_asked() {
        live::show(&stage)?;
        println!("\nCleaning up.");
    }
    Ok(is_clean)
}
