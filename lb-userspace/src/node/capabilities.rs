//! The capabilities that the agent needs, as a process and in the container of `deploy/`. A test starts the agent with
//! exactly these capabilities, and again with each one missing.

use std::fs;
use std::io;

/// One of `capabilities(7)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// As in `capabilities(7)`. A pod's manifest omits `CAP_`.
    pub name: &'static str,
    /// The number of its bit in `linux/capability.h`.
    pub number: u8,
    /// What the agent needs the capability for.
    pub purpose: &'static str,
}

/// All that is needed if a bpffs is already mounted. (Mounting one needs `CAP_SYS_ADMIN`.)
pub const NEEDED: [Capability; 3] = [
    Capability { name: "CAP_BPF", number: 39, purpose: "making maps and loading programs" },
    Capability {
        name: "CAP_NET_ADMIN",
        number: 12,
        purpose: "loading programs that change packets, and attaching them to links",
    },
    Capability {
        name: "CAP_PERFMON",
        number: 38,
        purpose: "loading programs that compare pointers into packets",
    },
];

/// Those of [`NEEDED`] that are not in the effective set of this process.
///
/// # Errors
/// If /proc is not mounted.
pub fn missing() -> io::Result<Vec<Capability>> {
    let status = fs::read_to_string("/proc/thread-self/status")?;
    let effective = effective(&status)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no CapEff in /proc/thread-self/status"))?;
    Ok(NEEDED.into_iter().filter(|needed| effective >> needed.number & 1 == 0).collect())
}

/// Whether this process may mount a bpffs, and enter namespaces of pods.
pub fn has_sys_admin() -> bool {
    const SYS_ADMIN: u8 = 21;
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    effective(&status).is_some_and(|effective| effective >> SYS_ADMIN & 1 == 1)
}

/// The effective set, from `status` of `proc(5)`.
fn effective(status: &str) -> Option<u64> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_is_read_from_proc() {
        let status = "CapPrm:\t000001ffffffffff\nCapEff:\t000000c000001000\nCapBnd:\t000001ffffffffff\n";
        let set = effective(status).expect("the text has the line");
        assert!(NEEDED.iter().all(|needed| set >> needed.number & 1 == 1));
        assert_eq!(set.count_ones(), 3);
        assert_eq!(effective("Name:\tlb\n"), None);
    }
}
