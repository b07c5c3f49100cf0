//! One agent at a time: a lock on the pin folder, held as long as its descriptor is.
//!
//! It is on the folder itself and not on anything in it, so that it outlives renames and holds between versions
//! with tables of different schemas. The kernel gives it back when the process ends, however it ends.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::oneshot;
use tracing::info;

use super::pins::Pins;

/// `lb status` has the lock for a moment, to see whether it can be had.
const GLANCE: Duration = Duration::from_millis(5);

/// The pin folder is this process's.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "kept for its drop, which gives the lock back")] File);

/// Takes the pin folder, made where there is none. Where another process has it, first does `meanwhile`, which
/// is to find out what would go wrong; then waits until that process ends.
///
/// # Errors
/// Where the folder cannot be made or locked, and that of `meanwhile`.
pub async fn take(pins: &Pins, meanwhile: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Lock> {
    for _ in 0..2 {
        if let Some(lock) = take_now(pins)? {
            return Ok(lock);
        }
        tokio::time::sleep(GLANCE).await;
    }
    meanwhile()?;
    info!("another lb agent{} has {}: waiting until it ends", holder(pins), pins.root().display());
    loop {
        pins.create()?;
        let folder = open(pins)?;
        // A thread of its own, which may outlive the runtime: nothing else ends a `flock` that waits.
        let (done, locked) = oneshot::channel();
        std::thread::spawn(move || {
            let locked = flock(&folder, libc::LOCK_EX).map(|()| folder);
            // Nobody listens any more where the agent was told to end.
            let _ = done.send(locked);
        });
        let folder = locked.await.context("the thread that waits for the lock ended")??;
        if is_still(&folder, pins.root()) {
            return Ok(Lock(folder));
        }
    }
}

/// Takes the pin folder unless another process has it; made where there is none.
///
/// # Errors
/// Where the folder cannot be made or locked.
fn take_now(pins: &Pins) -> anyhow::Result<Option<Lock>> {
    loop {
        pins.create()?;
        let folder = open(pins)?;
        match flock(&folder, libc::LOCK_EX | libc::LOCK_NB) {
            Ok(()) if is_still(&folder, pins.root()) => return Ok(Some(Lock(folder))),
            // `lb cleanup` removed it since.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("lock {}", pins.root().display())),
        }
    }
}

/// Takes a pin folder that is there; `None` where there is none.
///
/// # Errors
/// Where another process has it.
pub fn take_existing(pins: &Pins) -> anyhow::Result<Option<Lock>> {
    let folder = match File::open(pins.root()) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("open {}", pins.root().display())),
    };
    match flock(&folder, libc::LOCK_EX | libc::LOCK_NB) {
        Ok(()) => Ok(Some(Lock(folder))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => bail!(
            "another lb agent{} has {}: stop it first (`lb status` shows whether one runs)",
            holder(pins),
            pins.root().display()
        ),
        Err(error) => Err(error).with_context(|| format!("lock {}", pins.root().display())),
    }
}

/// Does an agent hold the folder?
pub fn is_taken(pins: &Pins) -> bool {
    File::open(pins.root()).is_ok_and(|folder| {
        // Dropped at once, which gives the lock back.
        flock(&folder, libc::LOCK_SH | libc::LOCK_NB)
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    })
}

/// ` (pid N)`, for a message; nothing where it is not to be seen, as from another pid namespace.
fn holder(pins: &Pins) -> String {
    let of_folder = || {
        let folder = fs::metadata(pins.root()).ok()?;
        let locks = fs::read_to_string("/proc/locks").ok()?;
        locks.lines().find_map(|line| holder_in(line, folder.dev(), folder.ino()))
    };
    of_folder().map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

/// A line of `proc_locks(5)`: `1: FLOCK  ADVISORY  WRITE 25057 00:27:1 0 EOF`. Lines of those who wait have an
/// arrow.
fn holder_in(line: &str, device: u64, inode: u64) -> Option<u32> {
    let mut words = line.split_whitespace().skip(1);
    let (kind, _, access) = (words.next()?, words.next()?, words.next()?);
    let (pid, file) = (words.next()?.parse().ok()?, words.next()?);
    let expected = format!("{:02x}:{:02x}:{inode}", libc::major(device), libc::minor(device));
    (kind == "FLOCK" && access == "WRITE" && file == expected).then_some(pid)
}

fn open(pins: &Pins) -> anyhow::Result<File> {
    File::open(pins.root()).with_context(|| format!("open {}", pins.root().display()))
}

fn flock(folder: &File, operation: i32) -> io::Result<()> {
    // SAFETY: a plain call on an open descriptor.
    if unsafe { libc::flock(folder.as_raw_fd(), operation) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Does the path still lead to what was locked?
fn is_still(folder: &File, path: &Path) -> bool {
    match (folder.metadata(), fs::metadata(path)) {
        (Ok(locked), Ok(now)) => (locked.dev(), locked.ino()) == (now.dev(), now.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_read_from_a_line_of_locks() {
        let line = "1: FLOCK  ADVISORY  WRITE 25057 00:27:1 0 EOF";
        assert_eq!(holder_in(line, libc::makedev(0, 0x27), 1), Some(25_057));
        assert_eq!(holder_in(line, libc::makedev(0, 0x27), 2), None);
        assert_eq!(holder_in(line, libc::makedev(1, 0x27), 1), None);
        let waits = "1: -> FLOCK  ADVISORY  WRITE 25058 00:27:1 0 EOF";
        assert_eq!(holder_in(waits, libc::makedev(0, 0x27), 1), None);
    }

    #[test]
    fn a_folder_is_had_by_one_and_given_back_on_drop() {
        let folder = tempfile::tempdir().unwrap();
        let pins = Pins::new(folder.path());
        assert!(!is_taken(&pins));
        let lock = take_existing(&pins).unwrap().expect("a folder");
        assert!(is_taken(&pins));
        let refused = take_existing(&pins).unwrap_err().to_string();
        assert!(refused.contains(&format!("(pid {})", std::process::id())), "{refused}");
        drop(lock);
        assert!(!is_taken(&pins) && take_existing(&pins).unwrap().is_some());
        assert!(take_existing(&Pins::new(&folder.path().join("none"))).unwrap().is_none());
    }
}
