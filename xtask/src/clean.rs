//! `cargo xtask clean`: what was built goes.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::{Context, Result};
use clap::Args;
use xtask::toolchain;

use crate::cargo;

#[derive(Args)]
pub struct Options {
    /// The tools that set-up compiled, too (packages of the system stay)
    #[arg(long)]
    tools: bool,
}

pub fn run(options: &Options) -> Result<()> {
    // Where a person built one of these by hand, it has a folder of its own.
    for folder in ["target/ebpf", "lb-ebpf/target", "tests/ebpf/target"] {
        remove(&toolchain::root().join(folder))?;
    }
    if options.tools {
        remove(&toolchain::cache()?)?;
    }
    cargo::run(cargo::command().arg("clean"))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", folder.display()))
        }
        _ => Ok(()),
    }
}
