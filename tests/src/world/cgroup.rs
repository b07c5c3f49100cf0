//! A separate cgroup, so that socket programs see only the processes that were moved into it.

use anyhow::{Context, Result};
use lb_userspace::dataplane::hook::cgroup;
use std::fs;
use std::path::{Path, PathBuf};

/// The prefix of our names; the pid of the process that made the cgroup follows.
const PREFIX: &str = "lbt";

/// A child of a cgroup v2 root. Dropping it moves this process back to its previous cgroup, and removes the child.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// The previous cgroup of this process.
    before: PathBuf,
}

impl Cgroup {
    /// Creates a cgroup, and removes those that killed tests left behind.
    pub fn create() -> Result<Self> {
        let mounts = cgroup::mounted()?;
        let mount = mounts.first();
        let root =
            &mount.context("no cgroup v2 is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")?.path;
        remove_stale(root)?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let before = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .context("this process is in no cgroup v2")?;
        let path = root.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("{} (root?)", path.display()))?;
        Ok(Self { path, before: root.join(before) })
    }

    /// Moves this process into the cgroup, and thereby every process that it starts.
    pub fn enter(&self) -> Result<()> {
        move_to(&self.path)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let gone = move_to(&self.before).and_then(|()| Ok(fs::remove_dir(&self.path)?));
        if let Err(failed) = gone {
            eprintln!("cannot remove the cgroup {}: {failed:#}", self.path.display());
        }
    }
}

fn move_to(cgroup: &Path) -> Result<()> {
    let file = cgroup.join("cgroup.procs");
    fs::write(&file, std::process::id().to_string()).with_context(|| file.display().to_string())
}

fn remove_stale(root: &Path) -> Result<()> {
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner.to_string()).exists()) {
            // Another test may remove the cgroup first, and a cgroup with processes cannot be removed.
            let _ = fs::remove_dir(root.join(name));
        }
    }
    Ok(())
}
