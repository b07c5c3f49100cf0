//! What a process takes of memory and CPU.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::ClockId;
use nix::unistd::{Pid, SysconfVar, sysconf};

/// In KiB, as /proc/pid/status tells.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// VmRSS: pages of files and of mapped tables among them.
    pub resident: u64,
    /// RssAnon: what the process alone has.
    pub anonymous: u64,
    /// VmHWM: the most that was ever resident.
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

/// Of all processes: how many wanted a CPU in the last minute.
pub fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().context("/proc/loadavg")?.parse()?)
}

/// CPU time so far: all its threads, and programs that it ran to their end (kube-proxy runs `nft`).
pub fn cpu(pid: u32) -> Result<Duration> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid as i32))?;
    Ok(Duration::from(clock.now()?) + of_children(pid)?)
}

/// `cutime` and `cstime` of /proc/pid/stat, in clock ticks.
fn of_children(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    // Behind the name, which may hold anything; field 3 is the first there, 16 and 17 are wanted (proc_pid_stat(5)).
    let (_, fields) = stat.rsplit_once(')').context("/proc/pid/stat has no name")?;
    let ticks: u64 =
        fields.split_whitespace().skip(13).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("clock ticks")?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}
