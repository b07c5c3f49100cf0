//! `cargo xtask bench`: ns per packet, as the packet test that also watches the budgets prints them; and
//! `cargo xtask bench api`: what a change on a real API server takes and costs.

use std::ffi::OsString;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use crate::{
    cargo,
    privilege::{as_root, environment},
    setup,
};

#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// Measure changes on a real API server, beside a bare client and kube-proxy
    Api {
        /// For the program that measures; `-- --help` lists them
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
}

pub fn run(options: &Options) -> Result<()> {
    match &options.what {
        None => packets(),
        Some(What::Api { arguments }) => api(arguments),
    }
}

fn packets() -> Result<()> {
    let programs = cargo::build(&["--package", "lb-tests", "--test", "budgets"])?;
    let budgets =
        programs.iter().find(|program| program.is_test).context("lb-tests has no test `budgets`")?;
    let mut command = as_root(&budgets.file, &environment())?;
    cargo::run(command.current_dir(&budgets.package).args(["--nocapture", "--test-threads=1"]))
}

fn api(arguments: &[OsString]) -> Result<()> {
    setup::control_plane::ensure()?;
    let programs = cargo::build(&["--package", "lb-userspace", "--package", "lb-tests", "--bins"])?;
    let mut command = as_root(cargo::find(&programs, "lb-bench")?, &environment())?;
    cargo::run(command.arg("api").arg("--lb").arg(cargo::find(&programs, "lb")?).args(arguments))
}
