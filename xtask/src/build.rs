//! `cargo xtask build`: the one file to install.

use anyhow::Result;

use crate::cargo;

pub fn run() -> Result<()> {
    let programs = cargo::build(&["--package", "lb-userspace", "--bins"])?;
    println!("{}", cargo::find(&programs, "lb")?.display());
    Ok(())
}
