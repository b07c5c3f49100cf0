//! bpffs and cgroup v2.

use std::fs;

use super::{Level, Line, error, ok, unseen, warning};
use crate::capabilities;
use crate::dataplane::pins::Pins;

pub fn check(pins: &Pins) -> Vec<Line> {
    vec![bpffs(pins), cgroup()]
}

fn bpffs(pins: &Pins) -> Line {
    let folder = pins.root().display();
    if pins.on_bpffs() {
        return ok("bpffs", format!("{folder} is on a bpffs"));
    }
    let advice =
        "mount -t bpf bpf /sys/fs/bpf; in a pod, a hostPath volume of the host's /sys/fs/bpf".to_owned();
    if capabilities::can_mount() {
        let found = format!("{folder} is not on a bpffs; the agent will mount one");
        return warning("bpffs", found, format!("{advice}, or the data path ends with the container"));
    }
    error(
        "bpffs",
        format!("{folder} is not on a bpffs, and without CAP_SYS_ADMIN none can be mounted"),
        advice,
    )
}

fn cgroup() -> Line {
    let mounts = match fs::read_to_string("/proc/thread-self/mounts") {
        Ok(mounts) => mounts,
        Err(error) => return unseen("cgroup", &error),
    };
    let mounted = |kind: &str| -> Option<String> {
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        mounts
            .find(|mount| mount.get(2) == Some(&kind))
            .and_then(|mount| mount.get(1).map(|at| (*at).to_owned()))
    };
    match (mounted("cgroup2"), mounted("cgroup")) {
        (Some(at), None) => ok("cgroup", format!("version 2 at {at}")),
        (Some(at), Some(_)) => ok("cgroup", format!("version 2 at {at}, beside version 1")),
        (None, _) => Line {
            level: Level::Warning,
            ..error(
                "cgroup",
                "no hierarchy of version 2 is mounted: socket programs for the node's own processes hang on one",
                "mount -t cgroup2 none /sys/fs/cgroup/unified; nothing that lb serves today needs it",
            )
        },
    }
}
