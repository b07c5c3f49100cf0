//! `cargo xtask run`: runs the demo, or the agent of a real node.

use std::{ffi::OsString, os::unix::process::CommandExt};

use anyhow::{Error, Result};
use clap::Args;

use crate::{
    cargo,
    privilege::{as_root, environment},
    setup,
};

/// The options of `cargo xtask run`.
#[derive(Args)]
pub struct Options {
    /// End after the demo's traffic; fail unless the right Service answered every request
    #[arg(long)]
    once: bool,
    /// Keep the objects on a real kube-apiserver, where `kubectl` can edit them
    #[arg(long)]
    api: bool,
    /// Run `lb agent` with these arguments instead of the demo
    #[arg(last = true, conflicts_with_all = ["once", "api"])]
    agent: Vec<OsString>,
}

/// Builds what the demo or the agent needs, and becomes it.
pub fn run(options: &Options) -> Result<()> {
    if options.api {
        setup::control_plane::ensure()?;
    }
    let programs = cargo::build(&["--package", "lb-userspace", "--package", "lb-tests", "--bins"])?;
    let lb = cargo::find(&programs, "lb")?;
    let environment = environment();
    let mut command = if options.agent.is_empty() {
        let mut demo = as_root(cargo::find(&programs, "lb-demo")?, &environment)?;
        demo.arg("--lb").arg(lb).args(options.once.then_some("--once")).args(options.api.then_some("--api"));
        demo
    } else {
        let mut agent = as_root(lb, &environment)?;
        agent.arg("agent").args(&options.agent);
        agent
    };
    // The program replaces this process, so that Ctrl-C and the exit status are its own.
    Err(Error::new(command.exec()).context(format!("{} cannot be started", cargo::typed(&command))))
}
