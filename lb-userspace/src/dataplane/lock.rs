//! One agent at a time: a lock on the pin folder, held as long as its descriptor is open.
//!
//! The lock is on the folder itself and not on a file in it, so that it survives renames and also excludes versions
//! with tables of other schemas. The kernel releases it when the process ends, however it ends.

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

/// `lb status` holds the lock for a moment, to see whether it is free.
const GLANCE: Duration = Duration::from_millis(5);

/// The lock on the pin folder, held by this process.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "kept for its drop, which releases the lock")] File);

/// Locks the pin folder, which is created if it does not exist. If another process holds the lock, calls `meanwhile`
/// first, which is to find out what would go wrong, and then waits until that process ends.
///
/// # Errors
/// If the folder cannot be created or locked, or `meanwhile` fails.
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
        // On a thread of its own, which may outlive the runtime, because a `flock` that waits cannot be cancelled.
        let (done, locked) = oneshot::channel();
        std::thread::spawn(move || {
            let locked = flock(&folder, libc::LOCK_EX).map(|()| folder);
            // If the receiver is gone, the agent was told to end.
            let _ = done.send(locked);
        });
        let folder = locked.await.context("the thread that waits for the lock ended")??;
        if is_still(&folder, pins.root()) {
            return Ok(Lock(folder));
        }
    }
}

/// Locks the pin folder, which is created if it does not exist; `None` if another process holds the lock.
///
/// # Errors
/// If the folder cannot be created or locked.
fn take_now(pins: &Pins) -> anyhow::Result<Option<Lock>> {
    loop {
        pins.create()?;
        let folder = open(pins)?;
        match flock(&folder, libc::LOCK_EX | libc::LOCK_NB) {
            Ok(()) if is_still(&folder, pins.root()) => return Ok(Some(Lock(folder))),
            // `lb cleanup` has removed the folder meanwhile.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("lock {}", pins.root().display())),
        }
    }
}

/// Locks an existing pin folder; `None` if there is none.
///
/// # Errors
/// If another process holds the lock.
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

/// Whether an agent holds the lock on the folder.
pub fn is_taken(pins: &Pins) -> bool {
    File::open(pins.root()).is_ok_and(|folder| {
        // The descriptor is dropped at once, which releases the lock.
        flock(&folder, libc::LOCK_SH | libc::LOCK_NB)
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    })
}

/// ` (pid N)` for a message; empty if the process cannot be seen, for example from another pid namespace.
fn holder(pins: &Pins) -> String {
    let of_folder = || {
        let folder = fs::metadata(pins.root()).ok()?;
        let locks = fs::read_to_string("/proc/locks").ok()?;
        locks.lines().find_map(|line| holder_in(line, folder.dev(), folder.ino()))
    };
    of_folder().map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

/// The process that holds the lock on a file, if the line of `proc_locks(5)` is about it:
/// `1: FLOCK  ADVISORY  WRITE 25057 00:27:1 0 EOF`. Lines of processes that wait have an arrow.
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
    // SAFETY: the call takes an open descriptor and no pointers.
    if unsafe { libc::flock(folder.as_raw_fd(), operation) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether the path still leads to the folder that was locked.
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
