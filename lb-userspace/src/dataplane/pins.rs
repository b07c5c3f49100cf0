//! The folder on a bpffs that keeps maps and links while no agent runs.
//!
//! ```text
//! <root>/v<schema>/<map>           the tables in force: complete, or absent
//! <root>/v<schema>-next/<map>      tables in the making; nothing reads them
//! <root>/v<schema>-old/<map>       previous tables, which programs that are not swapped yet may still use
//! <root>/links/<ifindex>_<direction>
//! ```
//!
//! A folder of tables gets its name by a rename, so that a start that is killed leaves no incomplete tables in force.

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

    /// Whether the folder, or its nearest existing ancestor, is on a bpffs.
    pub fn on_bpffs(&self) -> bool {
        on_bpffs(&self.root)
    }

    /// The tables of this version's schema, which may not exist yet.
    pub fn tables(&self) -> Set {
        Set { schema: SCHEMA, path: self.root.join(format!("v{SCHEMA}")), stage: Stage::Whole }
    }

    /// The pin of a map of [`Pins::tables`].
    pub fn map(&self, name: &str) -> PathBuf {
        self.tables().map(name)
    }

    /// The folder of the pinned links.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// The pin of a TCX link. It is named by interface index, because names are reused and indexes are not.
    pub fn link(&self, ifindex: u32, direction: &str) -> PathBuf {
        self.links().join(format!("{ifindex}_{direction}"))
    }

    /// The pin of a link at a cgroup, named by the cgroup's number.
    pub fn socket_link(&self, cgroup: u64, program: &str) -> PathBuf {
        self.links().join(format!("cgroup{cgroup}_{program}"))
    }

    /// The links at cgroups: the cgroup's number, and the pin.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn socket_links(&self) -> anyhow::Result<Vec<(u64, PathBuf)>> {
        let links = names_in(&self.links())?.into_iter().filter_map(|name| {
            let (cgroup, _) = name.strip_prefix("cgroup")?.split_once('_')?;
            Some((cgroup.parse().ok()?, self.links().join(&name)))
        });
        Ok(links.collect())
    }

    /// Creates the folder, and mounts a bpffs if there is none. Needs no lock: two processes may do it at once.
    ///
    /// # Errors
    /// If the right to mount is missing.
    pub fn create(&self) -> anyhow::Result<()> {
        if !on_bpffs(&self.root) {
            let target = self.mount_point();
            fs::create_dir_all(&target).with_context(|| format!("create {}", target.display()))?;
            // Lock the folder to be mounted on, so that two processes do not mount one bpffs over the other.
            let below = fs::File::open(&target).with_context(|| format!("open {}", target.display()))?;
            // SAFETY: the call takes an open descriptor and no pointers.
            let locked = unsafe { libc::flock(below.as_raw_fd(), libc::LOCK_EX) };
            anyhow::ensure!(locked == 0, "lock {}: {}", target.display(), io::Error::last_os_error());
            if !on_bpffs(&target) {
                mount_bpffs(&target)?;
            }
        }
        let links = self.links();
        fs::create_dir_all(&links).with_context(|| format!("create {}", links.display()))
    }

    /// `/sys/fs/bpf` itself if the folder is below it, because a bpffs is expected there; else the folder.
    fn mount_point(&self) -> PathBuf {
        let usual = Path::new("/sys/fs/bpf");
        if self.root.starts_with(usual) { usual.to_path_buf() } else { self.root.clone() }
    }

    fn sets(&self) -> anyhow::Result<Vec<Set>> {
        Ok(names_in(&self.root)?.iter().filter_map(|name| Set::parse(&self.root, name)).collect())
    }

    /// The tables in force, of any schema.
    ///
    /// # Errors
    /// If the folder cannot be read, or holds tables of two schemas.
    pub fn in_force(&self) -> anyhow::Result<Option<Set>> {
        let mut whole = self.sets()?.into_iter().filter(|set| set.stage == Stage::Whole);
        let first = whole.next();
        if let (Some(first), Some(second)) = (&first, whole.next()) {
            bail!(
                "{} and {} both exist: `lb cleanup` removes both, which ends the connections through them",
                first.path.display(),
                second.path.display()
            );
        }
        Ok(first)
    }

    /// The previous tables, whose programs may not all be swapped yet.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn replaced(&self) -> anyhow::Result<Vec<Set>> {
        Ok(self.sets()?.into_iter().filter(|set| set.stage == Stage::Old).collect())
    }

    /// Cleans up after a start that was killed. The caller holds the lock.
    ///
    /// # Errors
    /// If a folder cannot be read, renamed or removed.
    pub fn recover(&self) -> anyhow::Result<()> {
        let sets = self.sets()?;
        let is_there = |stage| sets.iter().any(|set| set.stage == stage);
        for next in sets.iter().filter(|set| set.stage == Stage::Next) {
            // The previous tables are renamed only when the next ones are complete.
            if is_there(Stage::Old) && !is_there(Stage::Whole) {
                next.become_stage(Stage::Whole)?;
            } else {
                next.remove()?;
            }
        }
        Ok(())
    }

    /// Creates an empty folder for new tables. The caller holds the lock and has called [`Pins::recover`].
    ///
    /// # Errors
    /// If the folder cannot be created.
    pub fn begin(&self) -> anyhow::Result<Set> {
        let next = self.tables().renamed(Stage::Next);
        fs::create_dir(&next.path).with_context(|| format!("create {}", next.path.display()))?;
        Ok(next)
    }

    /// Makes the finished tables current and renames the previous ones to `-old`; returns the latter, if any. Between
    /// the two renames no tables are in force: after a kill, [`Pins::recover`] completes the change.
    ///
    /// # Errors
    /// If a folder cannot be read or renamed.
    pub fn commit(&self, next: &Set) -> anyhow::Result<Option<Set>> {
        let before = self.in_force()?.map(|before| before.become_stage(Stage::Old)).transpose()?;
        next.become_stage(Stage::Whole)?;
        Ok(before)
    }

    /// Checks that there are tables of this schema.
    ///
    /// # Errors
    /// If there are none. The message says what to do.
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

    /// The interfaces that have a pinned link: index and direction, sorted.
    ///
    /// # Errors
    /// If the folder cannot be read.
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
    /// If a removal fails; the rest is not removed.
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
