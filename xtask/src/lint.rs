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

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// The lines of the tables of lints in a manifest, without comments.
    fn lints(manifest: &Path, prefix: &str) -> Vec<String> {
        let text = fs::read_to_string(manifest).expect("it is part of the repository");
        let tables = text.split("\n[").filter(|table| table.starts_with(prefix));
        let lines = tables.flat_map(str::lines).filter(|line| line.contains(" = "));
        lines.map(str::to_owned).collect()
    }

    /// The eBPF crates are outside the workspace, and inherit nothing from it.
    #[test]
    fn the_ebpf_crates_have_every_lint_of_the_workspace() {
        let wanted = lints(&toolchain::root().join("Cargo.toml"), "workspace.lints.");
        assert!(wanted.len() >= 4, "{wanted:?}");
        for folder in ebpf_crates() {
            let found = lints(&folder.join("Cargo.toml"), "lints.");
            let missing: Vec<&String> = wanted.iter().filter(|lint| !found.contains(lint)).collect();
            assert!(missing.is_empty(), "{} lacks {missing:?}", folder.display());
        }
    }
}
