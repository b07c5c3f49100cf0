//! Memory for the maps.

use std::fs;
use std::path::Path;

use super::line::{Line, error, ok, unseen, warning};
use super::options::Options;
use crate::dataplane::{maps, probe};

const MIB: u64 = 1 << 20;

pub fn check(options: &Options) -> Line {
    if options.pins.require().is_ok() {
        return ok("memory", "the maps exist already");
    }
    let cpus = match crate::dataplane::shape::possible_cpus() {
        Ok(cpus) => cpus,
        Err(error) => return unseen("memory", &format_args!("{error:#}")),
    };
    let (at_once, full) = maps::memory(cpus, options.sizes);
    let Some(available) = available() else { return unseen("memory", &"/proc/meminfo has no MemAvailable") };
    let found = format!(
        "the maps take {} MiB at once, and up to {} with all flows; {} MiB are available",
        at_once.div_ceil(MIB),
        full.div_ceil(MIB),
        available / MIB
    );
    let limit = locked_memory_limit();
    if limit.is_some_and(|limit| limit < at_once) {
        let found = format!("{found}; this kernel counts maps against RLIMIT_MEMLOCK, which is lower");
        return error("memory", found, "ulimit -l unlimited (LimitMEMLOCK=infinity of a systemd unit)");
    }
    let advice = "add memory, or raise the limit of the container's memory cgroup";
    if available < at_once {
        error("memory", found, advice)
    } else if available < full {
        warning("memory", found, advice)
    } else {
        ok("memory", found)
    }
}

/// In bytes; `None` if the kernel does not count maps against this limit.
fn locked_memory_limit() -> Option<u64> {
    let counted = probe::counts_locked_memory().unwrap_or(false);
    let limits = fs::read_to_string("/proc/thread-self/limits").unwrap_or_default();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    limit.filter(|_| counted)?.split_whitespace().next()?.parse().ok()
}

/// In bytes: the memory of the machine, or what the memory cgroup still allows if that is less.
fn available() -> Option<u64> {
    let of_machine = mem_available(&fs::read_to_string("/proc/meminfo").ok()?)?;
    Some(cgroup_rest().map_or(of_machine, |rest| rest.min(of_machine)))
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// What the memory cgroup of this process has left, in bytes; `None` if there is no such cgroup, or it has no limit.
/// In a container, the container's own cgroup is the root of the mounted hierarchy.
fn cgroup_rest() -> Option<u64> {
    let version_2 = (Path::new("/sys/fs/cgroup"), "memory.max", "memory.current");
    let version_1 = (Path::new("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes");
    let groups = fs::read_to_string("/proc/thread-self/cgroup").ok()?;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (mount, limit, usage) = match controllers {
            "" => version_2,
            "memory" => version_1,
            _ => continue,
        };
        for folder in [mount.join(path.trim_start_matches('/')), mount.to_path_buf()] {
            let number = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
            if let (Some(limit), Some(usage)) = (number(limit), number(usage)) {
                return Some(limit.saturating_sub(usage));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_kib() {
        assert_eq!(mem_available("MemTotal: 8 kB\nMemAvailable:   24048004 kB\n"), Some(24_048_004 * 1024));
        assert_eq!(mem_available("MemTotal: 8 kB\n"), None);
    }
}
