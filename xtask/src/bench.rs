//! `cargo xtask bench`: ns per packet, as the packet test that also watches the budgets prints them.

use anyhow::{Context, Result};

use crate::{
    cargo,
    privilege::{as_root, environment},
};

pub fn run() -> Result<()> {
    let programs = cargo::build(&["--package", "lb-tests", "--test", "budgets"])?;
    let budgets =
        programs.iter().find(|program| program.is_test).context("lb-tests has no test `budgets`")?;
    let mut command = as_root(&budgets.file, &environment())?;
    cargo::run(command.current_dir(&budgets.package).args(["--nocapture", "--test-threads=1"]))
}
