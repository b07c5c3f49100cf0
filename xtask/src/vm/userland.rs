//! The programs of a guest that cannot run this machine's own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use xtask::toolchain;

use super::debian::Debian;
use crate::architecture::Architecture;

/// What the guest's script and the demo start.
const PACKAGES: [&str; 7] = ["busybox-static", "bpftool", "coreutils", "dash", "iproute2", "kmod", "procps"];

/// The file tree that is the root of a guest: this machine's own where that can be, else one in the cache, whose name
/// says what is in it.
pub fn ensure(architecture: Architecture) -> Result<PathBuf> {
    if architecture.is_host() {
        return Ok(PathBuf::from("/"));
    }
    let userlands = toolchain::cache()?.join("userlands");
    let folder = userlands.join(format!("{}-{}", architecture.name(), PACKAGES.join("+")));
    if !folder.exists() {
        fetch(architecture, &userlands, &folder)
            .with_context(|| format!("programs for {}", architecture.name()))?;
    }
    Ok(folder)
}

fn fetch(architecture: Architecture, userlands: &Path, folder: &Path) -> Result<()> {
    let process = std::process::id();
    let partial = userlands.join(format!("partial-{process}"));
    let _ = fs::remove_dir_all(&partial);
    Debian::open(architecture, userlands.join(format!("apt-{process}")))?.unpack_all(&PACKAGES, &partial)?;
    // A package makes this link when it is installed.
    std::os::unix::fs::symlink("dash", partial.join("bin/sh"))
        .or_else(|error| if partial.join("bin/sh").exists() { Ok(()) } else { Err(error) })
        .context("the shell cannot be named")?;
    // Renamed once complete, so that a partial folder is never mistaken for a finished one.
    fs::rename(&partial, folder).with_context(|| format!("{} cannot be made", folder.display()))
}
