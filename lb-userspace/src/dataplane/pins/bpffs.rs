//! Folders on a bpffs, and mounting a bpffs.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context;

/// The magic of bpffs in `statfs(2)`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// The names in a folder; none if the folder does not exist.
pub(super) fn names_in(folder: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", folder.display())),
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

pub(super) fn remove_dir(folder: &Path) -> anyhow::Result<()> {
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

/// Whether the folder, or its nearest existing ancestor, is on a bpffs.
pub(super) fn on_bpffs(path: &Path) -> bool {
    let Some(existing) = path.ancestors().find(|folder| folder.exists()) else { return false };
    let Ok(path) = c_path(existing) else { return false };
    // SAFETY: a zeroed struct of integers is valid, and `path` ends with a zero byte.
    unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        libc::statfs(path.as_ptr(), &raw mut stat) == 0 && stat.f_type == BPF_FS_MAGIC
    }
}

pub(super) fn mount_bpffs(target: &Path) -> anyhow::Result<()> {
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

pub(super) fn is_mount_point(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (fs::metadata(path), path.parent().map(fs::metadata)) {
        (Ok(own), Some(Ok(parent))) => own.dev() != parent.dev(),
        _ => false,
    }
}

pub(super) fn unmount(path: &Path) -> anyhow::Result<()> {
    let target = c_path(path)?;
    // SAFETY: the string ends with a zero byte.
    if unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) } != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("unmount {}", path.display()));
    }
    Ok(())
}
