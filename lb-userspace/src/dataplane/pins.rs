//! Where maps and links live while no agent runs: a folder on bpffs, one below it for each schema.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use lb_common::SCHEMA;

/// The magic of bpffs in `statfs(2)`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// A pin folder: `<root>/v<schema>/{maps,links}`.
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

    fn schema(&self) -> PathBuf {
        self.root.join(format!("v{SCHEMA}"))
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.schema().join("maps").join(name)
    }

    pub fn links(&self) -> PathBuf {
        self.schema().join("links")
    }

    /// Keyed by interface index: names come back, indexes do not.
    pub fn link(&self, ifindex: u32, direction: &str) -> PathBuf {
        self.links().join(format!("{ifindex}_{direction}"))
    }

    /// Makes the folder, mounting a bpffs below it where there is none.
    ///
    /// # Errors
    /// Without the right to mount, or where another schema's tables are in the way.
    pub fn create(&self) -> anyhow::Result<()> {
        if !on_bpffs(&self.root) {
            let target = self.mount_point();
            fs::create_dir_all(&target).with_context(|| format!("make {}", target.display()))?;
            mount_bpffs(&target)?;
        }
        self.refuse_other_schema()?;
        for folder in [self.schema().join("maps"), self.links()] {
            fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        }
        Ok(())
    }

    /// `/sys/fs/bpf` itself where the folder is below it: everybody expects bpffs there. Else the folder.
    fn mount_point(&self) -> PathBuf {
        let usual = Path::new("/sys/fs/bpf");
        if self.root.starts_with(usual) { usual.to_path_buf() } else { self.root.clone() }
    }

    fn refuse_other_schema(&self) -> anyhow::Result<()> {
        for name in names_in(&self.root)? {
            if name.starts_with('v') && Path::new(&name) != Path::new(&format!("v{SCHEMA}")) {
                bail!(
                    "{} holds tables of schema {name}, this lb has schema v{SCHEMA}: remove them with the lb \
                     that made them (`lb cleanup --pin-dir {}`), or use another --pin-dir",
                    self.root.display(),
                    self.root.display()
                );
            }
        }
        Ok(())
    }

    /// Are there tables?
    ///
    /// # Errors
    /// A message that says what to do where there are none.
    pub fn require(&self) -> anyhow::Result<()> {
        match fs::metadata(self.map(lb_common::names::SERVICES)) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(error).with_context(|| self.root.display().to_string())
            }
            Err(_) => {
                if self.root.exists() {
                    self.refuse_other_schema()?;
                }
                bail!(
                    "no tables in {}: is `lb agent` running on this node, with this --pin-dir?",
                    self.schema().display()
                )
            }
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

    /// Takes the folder for this process: one agent at a time. Held as long as the descriptor is.
    ///
    /// # Errors
    /// Where another process has it.
    pub fn lock(&self) -> anyhow::Result<OwnedFd> {
        let folder = fs::File::open(self.schema())?;
        // SAFETY: a plain call on an open descriptor.
        if unsafe { libc::flock(folder.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            bail!(
                "another lb agent has {}: stop it first (`lb status` shows whether one runs)",
                self.schema().display()
            );
        }
        Ok(folder.into())
    }

    /// Does an agent hold the folder?
    pub fn locked(&self) -> bool {
        fs::File::open(self.schema()).is_ok_and(|folder| {
            // SAFETY: a plain call on an open descriptor; dropped at once, which gives the lock back.
            unsafe { libc::flock(folder.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) != 0 }
        })
    }

    /// Removes all pins of this schema and the folders; unmounts a bpffs that was mounted on the folder itself.
    ///
    /// # Errors
    /// The first removal that failed.
    pub fn remove(&self) -> anyhow::Result<()> {
        for folder in [self.links(), self.schema().join("maps")] {
            for name in names_in(&folder)? {
                let path = folder.join(name);
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
            remove_dir(&folder)?;
        }
        remove_dir(&self.schema())?;
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
