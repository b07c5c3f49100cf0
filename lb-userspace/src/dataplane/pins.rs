//! Where maps and links live while no agent runs: a folder on bpffs.
//!
//! ```text
//! <root>/v<schema>/<map>           the tables: whole, or not there
//! <root>/v<schema>-next/<map>      being made; nobody reads it
//! <root>/v<schema>-old/<map>       what programs that were not swapped yet may still use
//! <root>/links/<ifindex>_<direction>
//! ```
//!
//! A folder of tables comes by a rename, so that a start which was killed leaves none that is half made.

mod bpffs;
mod set;

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use lb_common::{SCHEMA, names};

pub use set::Set;

use bpffs::{is_mount_point, mount_bpffs, names_in, on_bpffs, remove_dir, unmount};
use set::Stage;

/// A pin folder.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Is the folder, or the nearest above it that exists, on a bpffs?
    pub fn on_bpffs(&self) -> bool {
        on_bpffs(&self.root)
    }

    /// The tables of this version's schema, once they are there.
    pub fn tables(&self) -> Set {
        Set { schema: SCHEMA, path: self.root.join(format!("v{SCHEMA}")), stage: Stage::Whole }
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.tables().map(name)
    }

    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Keyed by interface index: names come back, indexes do not.
    pub fn link(&self, ifindex: u32, direction: &str) -> PathBuf {
        self.links().join(format!("{ifindex}_{direction}"))
    }

    /// Keyed by the cgroup's number.
    pub fn socket_link(&self, cgroup: u64, program: &str) -> PathBuf {
        self.links().join(format!("cgroup{cgroup}_{program}"))
    }

    /// Links at cgroups: the cgroup's number, and the pin.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn socket_links(&self) -> anyhow::Result<Vec<(u64, PathBuf)>> {
        let links = names_in(&self.links())?.into_iter().filter_map(|name| {
            let (cgroup, _) = name.strip_prefix("cgroup")?.split_once('_')?;
            Some((cgroup.parse().ok()?, self.links().join(&name)))
        });
        Ok(links.collect())
    }

    /// Makes the folder, mounting a bpffs where there is none. Without the lock: two may do it at once.
    ///
    /// # Errors
    /// Without the right to mount.
    pub fn create(&self) -> anyhow::Result<()> {
        if !on_bpffs(&self.root) {
            let target = self.mount_point();
            fs::create_dir_all(&target).with_context(|| format!("make {}", target.display()))?;
            // What is to be mounted on, so that two do not mount one over the other.
            let below = fs::File::open(&target).with_context(|| format!("open {}", target.display()))?;
            // SAFETY: a plain call on an open descriptor.
            let locked = unsafe { libc::flock(below.as_raw_fd(), libc::LOCK_EX) };
            anyhow::ensure!(locked == 0, "lock {}: {}", target.display(), io::Error::last_os_error());
            if !on_bpffs(&target) {
                mount_bpffs(&target)?;
            }
        }
        let links = self.links();
        fs::create_dir_all(&links).with_context(|| format!("make {}", links.display()))
    }

    /// `/sys/fs/bpf` itself where the folder is below it: everybody expects bpffs there. Else the folder.
    fn mount_point(&self) -> PathBuf {
        let usual = Path::new("/sys/fs/bpf");
        if self.root.starts_with(usual) { usual.to_path_buf() } else { self.root.clone() }
    }

    fn sets(&self) -> anyhow::Result<Vec<Set>> {
        Ok(names_in(&self.root)?.iter().filter_map(|name| Set::parse(&self.root, name)).collect())
    }

    /// The tables that are in force, of whatever schema.
    ///
    /// # Errors
    /// Where the folder cannot be read, or holds tables of two schemas.
    pub fn in_force(&self) -> anyhow::Result<Option<Set>> {
        let mut whole = self.sets()?.into_iter().filter(|set| set.stage == Stage::Whole);
        let first = whole.next();
        if let (Some(first), Some(second)) = (&first, whole.next()) {
            bail!(
                "{} and {} are both there: `lb cleanup` removes all; connections that go through them end",
                first.path.display(),
                second.path.display()
            );
        }
        Ok(first)
    }

    /// Those that tables in force took the place of, and whose programs may not all be swapped yet.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn replaced(&self) -> anyhow::Result<Vec<Set>> {
        Ok(self.sets()?.into_iter().filter(|set| set.stage == Stage::Old).collect())
    }

    /// Clears up after a start that was killed. Under the lock.
    ///
    /// # Errors
    /// The kernel's.
    pub fn recover(&self) -> anyhow::Result<()> {
        let sets = self.sets()?;
        let is_there = |stage| sets.iter().any(|set| set.stage == stage);
        for next in sets.iter().filter(|set| set.stage == Stage::Next) {
            // The old ones step aside only for what is whole.
            if is_there(Stage::Old) && !is_there(Stage::Whole) {
                next.become_stage(Stage::Whole)?;
            } else {
                next.remove()?;
            }
        }
        Ok(())
    }

    /// An empty folder for tables in the making. Under the lock, after [`Pins::recover`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn begin(&self) -> anyhow::Result<Set> {
        let next = self.tables().renamed(Stage::Next);
        fs::create_dir(&next.path).with_context(|| format!("make {}", next.path.display()))?;
        Ok(next)
    }

    /// Puts tables that are whole in force, and those that were so aside, which it gives. Between both renames there are none in
    /// force: [`Pins::recover`] ends what was begun.
    ///
    /// # Errors
    /// The kernel's.
    pub fn commit(&self, next: &Set) -> anyhow::Result<Option<Set>> {
        let before = self.in_force()?.map(|before| before.become_stage(Stage::Old)).transpose()?;
        next.become_stage(Stage::Whole)?;
        Ok(before)
    }

    /// Are there tables of this schema?
    ///
    /// # Errors
    /// A message that says what to do where there are none.
    pub fn require(&self) -> anyhow::Result<()> {
        let error = match fs::metadata(self.map(names::SERVICES)) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if error.kind() == io::ErrorKind::PermissionDenied {
            return Err(error).with_context(|| self.root.display().to_string());
        }
        match self.in_force()? {
            Some(set) if set.schema != SCHEMA => bail!(
                "{} holds tables of schema v{}, this lb has schema v{SCHEMA}: use the lb that made them",
                self.root.display(),
                set.schema
            ),
            _ => bail!(
                "no tables in {}: is `lb agent` running on this node, with this --pin-dir?",
                self.tables().path.display()
            ),
        }
    }

    /// Indexes of the interfaces that have a pinned link.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn linked(&self) -> anyhow::Result<Vec<(u32, String)>> {
        let mut linked: Vec<_> = names_in(&self.links())?
            .into_iter()
            .filter_map(|name| {
                let (index, direction) = name.split_once('_')?;
                Some((index.parse().ok()?, direction.to_owned()))
            })
            .collect();
        linked.sort();
        Ok(linked)
    }

    /// Removes all pins, of any schema, and the folders; unmounts a bpffs that was mounted on the folder itself.
    ///
    /// # Errors
    /// The first removal that failed.
    pub fn remove(&self) -> anyhow::Result<()> {
        let links = self.links();
        for name in names_in(&links)? {
            let pin = links.join(name);
            fs::remove_file(&pin).with_context(|| format!("remove {}", pin.display()))?;
        }
        remove_dir(&links)?;
        for set in self.sets()? {
            set.remove()?;
        }
        if is_mount_point(&self.root) {
            unmount(&self.root)?;
        }
        if names_in(&self.root)?.is_empty() {
            remove_dir(&self.root)?;
        }
        Ok(())
    }
}
