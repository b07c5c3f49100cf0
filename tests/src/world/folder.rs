//! A world's folder under /run, with its own bpffs for pins, the manifests, and the logs of agents.

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::path::{Path, PathBuf};

pub(super) const PARENT: &str = "/run";

#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(super) fn create(name: &str) -> Result<Self> {
        let folder = Self { path: Path::new(PARENT).join(name) };
        let pins = folder.pins();
        fs::create_dir_all(&pins).with_context(|| format!("{} (root?)", pins.display()))?;
        fs::create_dir(folder.manifests())?;
        mount(Some("bpf"), &pins, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount bpffs on {}", pins.display()))?;
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A bpffs that only this world uses.
    pub fn pins(&self) -> PathBuf {
        self.path.join("bpf")
    }

    pub fn manifests(&self) -> PathBuf {
        self.path.join("manifests")
    }

    /// A new log file for another agent.
    pub(super) fn agent_log(&self) -> PathBuf {
        let name = |number| self.path.join(format!("agent-{number}.log"));
        (1..).map(name).find(|path| !path.exists()).expect("there are more numbers than agents")
    }

    /// Unmounts and removes the folder of this name, even if it is incomplete.
    pub(super) fn remove(name: &str) -> Result<()> {
        let path = Path::new(PARENT).join(name);
        if !path.exists() {
            return Ok(());
        }
        let pins = path.join("bpf");
        // Programs and maps survive in the processes that hold them, and do not need the mount.
        match umount2(&pins, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot unmount {}", pins.display())),
        }
        fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}
