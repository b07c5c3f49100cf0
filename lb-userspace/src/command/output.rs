//! The input and the output of the commands that show something.

use std::io::Write;

use super::args::{Output, PinArgs};
use crate::dataplane;
use crate::dataplane::maps::Maps;
use crate::dataplane::pins::Pins;
use crate::objects::notice::Notice;
use crate::tables::Tables;

/// Reads the tables in the kernel.
pub(super) fn pinned(pins: &PinArgs) -> anyhow::Result<Tables> {
    dataplane::read(&Maps::open(&Pins::new(&pins.pin_dir), false)?)
}

/// Prints notices to standard error.
pub(super) fn tell<'a>(notices: impl IntoIterator<Item = &'a Notice>) {
    for notice in notices {
        eprintln!("lb: {}: {notice}", notice.severity);
    }
}

/// Prints a value as text or as JSON.
pub(super) fn print<T: serde::Serialize>(
    output: Output,
    value: &T,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match output {
        Output::Table => out.write_all(text().as_bytes())?,
        Output::Json => {
            let text = serde_json::to_string_pretty(value)?;
            writeln!(out, "{text}")?;
        }
    }
    Ok(())
}
