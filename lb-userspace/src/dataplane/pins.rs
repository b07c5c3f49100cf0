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

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use lb_common::{SCHEMA, names};

/// The magic of bpffs in `statfs(2)`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// A pin folder.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

/// A folder of pinned tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Version of their layout.
    pub schema: u32,
    path: PathBuf,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
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

    fn parse(root: &Path, name: &str) -> Option<Self> {
        let version = name.strip_prefix('v')?;
        let (version, stage) = match version.split_once('-') {
            None => (version, Stage::Whole),
            Some((version, "next")) => (version, Stage::Next),
            Some((version, "old")) => (version, Stage::Old),
            Some(_) => return None,
        };
        Some(Self { schema: version.parse().ok()?, path: root.join(name), stage })
    }

    fn renamed(&self, stage: Stage) -> Self {
        let suffix = match stage {
            Stage::Next => "-next",
            Stage::Whole => "",
            Stage::Old => "-old",
        };
        Self { path: self.path.with_file_name(format!("v{}{suffix}", self.schema)), stage, ..self.clone() }
    }

    fn become_stage(&self, stage: Stage) -> anyhow::Result<Self> {
        let renamed = self.renamed(stage);
        fs::rename(&self.path, &renamed.path)
            .with_context(|| format!("rename {} to {}", self.path.display(), renamed.path.display()))?;
        Ok(renamed)
    }

    /// Removes the pins and the folder. What programs use of it goes on.
    ///
    /// # Errors
    /// The first removal that failed.
    pub fn remove(&self) -> anyhow::Result<()> {
        for name in names_in(&self.path)? {
            let pin = self.path.join(name);
            fs::remove_file(&pin).with_context(|| format!("remove {}", pin.display()))?;
        }
        remove_dir(&self.path)
    }
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

/// Names in a folder; none where there is no folder.
fn names_in(folder: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", folder.display())),
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn remove_dir(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("remove {}", folder.display())),
    }
}

fn c_path(path: &Path) -> anyhow::Result<std::ffi::CString> {
    use std::os::unix::ffi::OsStrExt;
    Ok(std::ffi::CString::new(path.as_os_str().as_bytes())?)
}

/// Is the folder, or the nearest one above that exists, on a bpffs?
fn on_bpffs(path: &Path) -> bool {
    let Some(existing) = path.ancestors().find(|folder| folder.exists()) else { return false };
    let Ok(path) = c_path(existing) else { return false };
    // SAFETY: a zeroed struct of integers is valid, and `path` ends with a zero byte.
    unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        libc::statfs(path.as_ptr(), &raw mut stat) == 0 && stat.f_type == BPF_FS_MAGIC
    }
}

fn mount_bpffs(target: &Path) -> anyhow::Result<()> {
    let path = c_path(target)?;
    // SAFETY: all strings end with a zero byte.
    let result = unsafe {
        libc::mount(c"bpf".as_ptr(), path.as_ptr(), c"bpf".as_ptr(), 0, c"mode=0700".as_ptr().cast())
    };
    if result != 0 {
        return Err(io::Error::last_os_error()).with_context(|| {
            format!("mount a bpffs on {0}: run as root, or `mount -t bpf bpf {0}`", target.display())
        });
    }
    Ok(())
}

fn is_mount_point(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (fs::metadata(path), path.parent().map(fs::metadata)) {
        (Ok(own), Some(Ok(parent))) => own.dev() != parent.dev(),
        _ => false,
    }
}

fn unmount(path: &Path) -> anyhow::Result<()> {
    let target = c_path(path)?;
    // SAFETY: the string ends with a zero byte.
    if unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) } != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("unmount {}", path.display()));
    }
    Ok(())
}
