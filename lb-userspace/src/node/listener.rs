//! The process that listens on a port of this network namespace.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

/// A process, as far as it is visible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub pid: Option<u32>,
    pub name: Option<String>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match (self.pid, &self.name) {
            (Some(pid), Some(name)) => write!(f, "{name} (process {pid})"),
            (Some(pid), None) => write!(f, "process {pid}"),
            _ => f.write_str("a process that is not visible from here"),
        }
    }
}

/// The process that listens on a TCP port, on any address; `None` if no process does.
///
/// # Errors
/// If /proc cannot be read.
pub fn of(port: u16) -> io::Result<Option<Owner>> {
    for file in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let table = match fs::read_to_string(file) {
            Ok(table) => table,
            // The kernel has no IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if let Some(inode) = table.lines().find_map(|line| listening(line, port)) {
            return Ok(Some(owner(inode)));
        }
    }
    Ok(None)
}

/// The socket's inode, if a line of `/proc/net/tcp` describes a socket that listens on the port.
fn listening(line: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    let words: Vec<&str> = line.split_whitespace().collect();
    let (_, local_port) = words.get(1)?.rsplit_once(':')?;
    let is_it = u16::from_str_radix(local_port, 16).ok()? == port && *words.get(3)? == LISTEN;
    if is_it { words.get(9)?.parse().ok() } else { None }
}

/// The process that has the socket. Descriptors of other processes are visible only to root with CAP_SYS_PTRACE, and
/// only if the process is in our view of /proc.
fn owner(inode: u64) -> Owner {
    let link = format!("socket:[{inode}]");
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has_it = |pid: &u32| {
        let descriptors = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd"));
        let mut descriptors = descriptors.into_iter().flatten().flatten();
        descriptors.any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == Path::new(&link)))
    };
    let pid = pids.find(has_it);
    let name = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
    Owner { pid, name: name.map(|name| name.trim().to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_is_found_with_its_process() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("a port of the loopback is free");
            let port = listener.local_addr().expect("it is bound").port();
            let owner = of(port).expect("/proc is mounted").expect("the test listens");
            assert_eq!(owner.pid, Some(std::process::id()), "{owner}");
            assert!(owner.name.is_some());
            drop(listener);
            assert_eq!(of(port).expect("/proc is mounted"), None);
        }
    }

    #[test]
    fn only_sockets_that_listen_count() {
        let line = "   0: 0100007F:2809 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5177 1";
        assert_eq!(listening(line, 10_249), Some(5177));
        assert_eq!(listening(line, 10_256), None);
        assert_eq!(listening(&line.replace(" 0A ", " 01 "), 10_249), None, "a connection does not count");
        assert_eq!(listening("  sl  local_address rem_address   st", 10_249), None);
    }
}
