//! A cgroup of its own, so that programs at sockets see the processes that were moved into it and nobody else's.

use anyhow::{Context, Result};
use lb_userspace::dataplane::hook::cgroup;
use std::fs;
use std::path::{Path, PathBuf};

/// Names of ours; the process that made it follows.
const PREFIX: &str = "lbt";

/// A child of a cgroup v2 root. When dropped, this process goes back to where it was, and the cgroup away.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// Where this process was before.
    before: PathBuf,
}

impl Cgroup {
    /// Made; those that tests which were killed left are removed.
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
            .context("this process has no cgroup v2")?;
        let path = root.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("{} (root?)", path.display()))?;
        Ok(Self { path, before: root.join(before) })
    }

    /// Moves this process into it, and so the processes that it starts.
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
            eprintln!("the cgroup {} stays: {failed:#}", self.path.display());
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
            // Another test may be quicker, and processes in it keep it.
            let _ = fs::remove_dir(root.join(name));
        }
    }
    Ok(())
}
