//! The bpffs and the cgroup v2 hierarchy.

use super::line::{Line, error, ok, warning};
use crate::dataplane::hook::cgroup::Cgroup;
use crate::dataplane::pins::Pins;
use crate::node::capabilities;

pub fn check(pins: &Pins) -> Vec<Line> {
    vec![bpffs(pins), cgroup()]
}

fn bpffs(pins: &Pins) -> Line {
    let folder = pins.root().display();
    if pins.on_bpffs() {
        return ok("bpffs", format!("{folder} is on a bpffs"));
    }
    let advice =
        "mount -t bpf bpf /sys/fs/bpf; in a pod, use a hostPath volume of the host's /sys/fs/bpf".to_owned();
    if capabilities::has_sys_admin() {
        let found = format!("{folder} is not on a bpffs; the agent will mount one");
        return warning("bpffs", found, format!("{advice}; otherwise the data path ends with the container"));
    }
    error(
        "bpffs",
        format!("{folder} is not on a bpffs, and without CAP_SYS_ADMIN the agent cannot mount one"),
        advice,
    )
}

fn cgroup() -> Line {
    const ADVICE: &str = "without it, processes of the host reach no Service; --cgroup serves the processes in and \
                          below a folder of the hierarchy";
    match Cgroup::open(None) {
        Ok(cgroup) => ok("cgroup", format!("root of version 2 at {}", cgroup.place)),
        Err(failed) => warning("cgroup", format!("{failed:#}"), ADVICE),
    }
}
