//! `cargo xtask lint`: formatting, clippy (a warning is an error), and circles of imports.

use std::path::PathBuf;

use anyhow::{Context, Result};
use xtask::toolchain::{self, Toolchain};

use crate::{cargo, rooms, setup};

/// Runs every check; the first that fails ends the run.
pub fn run() -> Result<()> {
    for folder in [toolchain::root().to_owned()].into_iter().chain(ebpf_crates()) {
        cargo::run(cargo::command().current_dir(&folder).args(["fmt", "--all", "--check"]))
            .with_context(|| format!("run `cargo fmt --all` in {}", folder.display()))?;
    }
    // Built like the tests, so that both share build scripts and macros.
    let everything = ["--workspace", "--all-targets", "--", "-Dwarnings"];
    cargo::run(cargo::release("clippy")?.args(everything))?;
    let toolchain = Toolchain::find()?;
    setup::ebpf_clippy(&toolchain.compiler)?;
    for folder in ebpf_crates() {
        cargo::run(&mut toolchain.lint(&folder))?;
    }
    rooms::check()
}

fn ebpf_crates() -> [PathBuf; 2] {
    ["lb-ebpf", "tests/ebpf"].map(|folder| toolchain::root().join(folder))
}
