//! `cargo xtask clean`: removes what was built.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::{Context, Result};
use clap::Args;
use xtask::toolchain;

use crate::cargo;

/// The options of `cargo xtask clean`.
#[derive(Args)]
pub struct Options {
    /// Also remove the tools that set-up compiled (packages of the system stay)
    #[arg(long)]
    tools: bool,
}

/// Removes what was built.
pub fn run(options: &Options) -> Result<()> {
    // The last two exist if a person built the crate by hand.
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
