//! `cargo xtask rooms`: how the crates are built, in rooms, arrows and circles; also a step of lint.
//!
//! A room is a top-level module of a crate: `x.rs` together with the folder `x/`. An arrow leads from a room to
//! each room that it imports from, whether by `use` or by a path in the code. A circle is a set of rooms that all
//! reach each other along arrows: none of them can be read, tested or replaced without the others. Code that only
//! tests see does not count.

mod graph;
mod house;
mod imports;
mod report;
mod source;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use xtask::toolchain;

use self::house::House;

/// The crates of the repository, and those of the tests' own programs.
const CRATES: [&str; 6] = ["lb-ebpf", "lb-common", "lb-userspace", "xtask", "tests", "tests/ebpf"];

/// The options of `cargo xtask rooms`.
#[derive(Args)]
pub struct Options {
    /// Another checkout of this repository, for a table to compare with
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// List every arrow, with the names that are imported
    #[arg(long)]
    arrows: bool,
}

/// Prints the table, and every circle.
///
/// # Errors
/// A source file is missing or is not Rust.
pub fn run(options: &Options) -> Result<()> {
    let houses = houses(options.folder.as_deref().unwrap_or(toolchain::root()))?;
    print!("{}", report::table(&houses));
    for house in &houses {
        if options.arrows {
            print!("{}", report::arrows(house));
        }
        print!("{}", report::circles(house));
    }
    Ok(())
}

/// The step of lint: prints a line for each circle between rooms, and fails if there is any.
///
/// # Errors
/// There is a circle, or a source file is missing or is not Rust.
pub fn check() -> Result<()> {
    let houses = houses(toolchain::root())?;
    let advice: Vec<String> = houses.iter().flat_map(report::advice).collect();
    if advice.is_empty() {
        return Ok(());
    }
    for line in &advice {
        eprintln!("{line}");
    }
    bail!("rooms import from each other in a circle, see above (`cargo xtask rooms` lists every import)")
}

fn houses(root: &Path) -> Result<Vec<House>> {
    let read = |name: &&str| {
        let package = source::read(&root.join(name)).with_context(|| format!("the crate {name}"))?;
        Ok(House::new(name, &package))
    };
    CRATES.iter().map(read).collect()
}
