//! A folder of pinned tables, and the stages that it goes through.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::bpffs::{names_in, remove_dir};

/// A folder of pinned tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Version of the tables' layout.
    pub schema: u32,
    pub(super) path: PathBuf,
    pub(super) stage: Stage,
}

/// How far a folder of tables is, which its suffix tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Next,
    Whole,
    Old,
}

impl Set {
    pub fn map(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn parse(root: &Path, name: &str) -> Option<Self> {
        let version = name.strip_prefix('v')?;
        let (version, stage) = match version.split_once('-') {
            None => (version, Stage::Whole),
            Some((version, "next")) => (version, Stage::Next),
            Some((version, "old")) => (version, Stage::Old),
            Some(_) => return None,
        };
        Some(Self { schema: version.parse().ok()?, path: root.join(name), stage })
    }

    pub(super) fn renamed(&self, stage: Stage) -> Self {
        let suffix = match stage {
            Stage::Next => "-next",
            Stage::Whole => "",
            Stage::Old => "-old",
        };
        Self { path: self.path.with_file_name(format!("v{}{suffix}", self.schema)), stage, ..self.clone() }
    }

    pub(super) fn become_stage(&self, stage: Stage) -> anyhow::Result<Self> {
        let renamed = self.renamed(stage);
        fs::rename(&self.path, &renamed.path)
            .with_context(|| format!("rename {} to {}", self.path.display(), renamed.path.display()))?;
        Ok(renamed)
    }

    /// Removes the pins and the folder. Maps that programs use stay in use.
    ///
    /// # Errors
    /// If a removal fails; the rest is not removed.
    pub fn remove(&self) -> anyhow::Result<()> {
        for name in names_in(&self.path)? {
            let pin = self.path.join(name);
            fs::remove_file(&pin).with_context(|| format!("remove {}", pin.display()))?;
        }
        remove_dir(&self.path)
    }
}
