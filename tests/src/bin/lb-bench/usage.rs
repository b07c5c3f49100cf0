//! The memory and CPU time that a process uses.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::ClockId;
use nix::unistd::{Pid, SysconfVar, sysconf};

/// In KiB, from /proc/pid/status.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// VmRSS: includes pages of files and of mapped tables.
    pub resident: u64,
    /// RssAnon: memory that belongs to the process alone.
    pub anonymous: u64,
    /// VmHWM: the highest value of `resident` so far.
    pub peak: u64,
}

pub fn memory(pid: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let value = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        value.with_context(|| format!("no {name} in /proc/{pid}/status"))
    };
    Ok(Memory { resident: field("VmRSS")?, anonymous: field("RssAnon")?, peak: field("VmHWM")? })
}

/// The load average: how many processes of the machine wanted a CPU in the last minute.
pub fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().context("/proc/loadavg is empty")?.parse()?)
}

/// The CPU time so far of all threads, and of programs that the process ran until they ended (kube-proxy runs `nft`).
pub fn cpu(pid: u32) -> Result<Duration> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid as i32))?;
    Ok(Duration::from(clock.now()?) + of_children(pid)?)
}

/// Whether a program that the process started is running.
pub fn has_children(pid: u32) -> Result<bool> {
    let pid = pid.to_string();
    for entry in fs::read_dir("/proc")? {
        // A process may have ended meanwhile; others are no processes.
        let stat = fs::read_to_string(entry?.path().join("stat")).unwrap_or_default();
        // The parent is the second field after the name.
        let parent = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(1));
        if parent == Some(&pid) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `cutime` and `cstime` of /proc/pid/stat, in clock ticks.
fn of_children(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    // The name may contain anything. The fields after it start with field 3; 16 and 17 are needed (proc_pid_stat(5)).
    let (_, fields) = stat.rsplit_once(')').context("/proc/pid/stat has no name")?;
    let ticks: u64 =
        fields.split_whitespace().skip(13).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    let per_second =
        sysconf(SysconfVar::CLK_TCK)?.context("the number of clock ticks per second is unknown")?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}
