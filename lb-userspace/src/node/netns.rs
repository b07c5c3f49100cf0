//! Network namespaces: this thread's own, and those of pods.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use socket2::{Domain, Socket, Type};

/// The folder in which container runtimes (and `ip netns`) name the network namespaces of pods.
pub const FOLDER: &str = "/run/netns";

/// The kernel's number of this thread's network namespace, as programs at sockets see it (`SO_NETNS_COOKIE` of
/// `linux/socket.h`, kernel 5.14).
///
/// # Errors
/// If the kernel is older, or refuses a socket.
pub fn cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: i32 = 71;
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` is that many writable bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result != 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// Every namespace that has a name, once, except this thread's own.
///
/// # Errors
/// If the folder of names cannot be read.
pub fn others() -> io::Result<Vec<File>> {
    let own = fs::metadata("/proc/thread-self/ns/net")?;
    let mut seen = vec![own.ino()];
    let mut others = Vec::new();
    for entry in fs::read_dir(Path::new(FOLDER))? {
        // The name was removed just now.
        let Ok(file) = entry.and_then(|entry| File::open(entry.path())) else { continue };
        let found = file.metadata()?;
        // A name whose namespace is gone is an ordinary file.
        if found.dev() == own.dev() && !seen.contains(&found.ino()) {
            seen.push(found.ino());
            others.push(file);
        }
    }
    Ok(others)
}

/// Runs `work` inside a namespace, on a thread of its own.
///
/// # Errors
/// If the namespace cannot be entered (which needs CAP_SYS_ADMIN), or if `work` fails.
pub fn inside<T: Send>(netns: &File, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let enter = || {
        // SAFETY: a plain call on an open descriptor.
        if unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        work()
    };
    std::thread::scope(|scope| scope.spawn(enter).join())
        .unwrap_or_else(|_| Err(io::Error::other("a thread ended early")))
}
