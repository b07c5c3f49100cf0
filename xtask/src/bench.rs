//! `cargo xtask bench`: nanoseconds per packet, printed by the test that also checks the instruction budgets.
//! `cargo xtask bench api`: the latency and the cost of a change on a real API server.
//! `cargo xtask bench data`: connections, requests and streams through a node.

use std::ffi::OsString;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use crate::{
    cargo,
    privilege::{as_root, environment},
    setup,
};

/// The options of `cargo xtask bench`.
#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// Measure changes on a real API server, and compare with a bare client and with kube-proxy
    Api {
        /// Arguments for the program that measures; `-- --help` lists them
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// Measure connections, requests and streams by each way to a server, next to kube-proxy
    Data {
        /// Arguments for the program that measures; `-- --help` lists them
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
}

/// Runs the benchmark.
pub fn run(options: &Options) -> Result<()> {
    match &options.what {
        None => packets(),
        Some(What::Api { arguments }) => measure("api", arguments),
        Some(What::Data { arguments }) => measure("data", arguments),
    }
}

fn packets() -> Result<()> {
    let programs = cargo::build(&["--package", "lb-tests", "--test", "budgets"])?;
    let budgets =
        programs.iter().find(|program| program.is_test).context("lb-tests has no test program `budgets`")?;
    let mut command = as_root(&budgets.file, &environment())?;
    cargo::run(command.current_dir(&budgets.package).args(["--nocapture", "--test-threads=1"]))
}

fn measure(what: &str, arguments: &[OsString]) -> Result<()> {
    setup::control_plane::ensure()?;
    let programs = cargo::build(&["--package", "lb-userspace", "--package", "lb-tests", "--bins"])?;
    let mut command = as_root(cargo::find(&programs, "lb-bench")?, &environment())?;
    cargo::run(command.arg(what).arg("--lb").arg(cargo::find(&programs, "lb")?).args(arguments))
}
