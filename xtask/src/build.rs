//! `cargo xtask build`: builds `lb`, the one file to install.

use anyhow::Result;

use crate::cargo;

/// Builds `lb` for release, and prints its path.
pub fn run() -> Result<()> {
    let programs = cargo::build(&["--package", "lb-userspace", "--bins"])?;
    println!("{}", cargo::find(&programs, "lb")?.display());
    Ok(())
}
