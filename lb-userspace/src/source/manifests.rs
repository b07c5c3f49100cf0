//! Objects from a folder of manifests, as `kubectl get -o yaml` (or `-o json`) prints them: the source of events
//! that needs no cluster.

mod folder;
mod parse;
mod watch;

use std::path::Path;

use anyhow::{Context, bail};

pub use folder::Folder;
pub use parse::{Object, Parsed, parse};
pub use watch::{Watch, watch};

use crate::objects::event::Event;

/// Loads the objects of a folder as one full list of each kind.
///
/// # Errors
/// If the folder cannot be read, or a file in it is broken. The error names every such file.
pub fn load_dir(dir: &Path) -> anyhow::Result<Vec<Event>> {
    let texts = folder::read(dir).with_context(|| format!("cannot read the folder {}", dir.display()))?;
    let mut folder = Folder::default();
    let events = folder.update(texts);
    let errors: Vec<String> = folder.errors().map(ToString::to_string).collect();
    if !errors.is_empty() {
        bail!("{}", errors.join("\n"));
    }
    Ok(events)
}
