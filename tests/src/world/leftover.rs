//! Names that contain the pid of their process, and the removal of what dead runs left behind.

use super::folder::{self, Folder};
use super::netns::{self, Netns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::process;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

const PREFIX: &str = "lbt";

/// The prefix of the names of a new world: `lbt<pid>-<n>`.
pub(super) fn next_name() -> String {
    static COLLECTED: Once = Once::new();
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // Until this process makes its first world, names with its own pid also belong to a dead run.
    COLLECTED.call_once(collect);
    format!("{PREFIX}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Removes what killed runs left behind. A failure is reported, and is harmless.
fn collect() {
    for name in dead_names(Path::new(netns::FOLDER)) {
        end_processes(&name);
        report(&name, Netns::delete(&name));
    }
    for name in dead_names(Path::new(folder::PARENT)) {
        report(&name, Folder::remove(&name));
    }
}

fn report(name: &str, removed: anyhow::Result<()>) {
    match removed {
        Ok(()) => eprintln!("removed {name}, left by a run that was killed"),
        Err(error) => eprintln!("cannot remove {name}, left by a run that was killed: {error:#}"),
    }
}

/// Ends the processes in a namespace of ours. They were started there by the run that made the namespace.
pub(super) fn end_processes(netns: &str) {
    for pid in Netns::processes(netns).unwrap_or_default() {
        // The process may have ended meanwhile.
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
}

fn dead_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_dead(name)).collect()
}

fn is_dead(name: &str) -> bool {
    let Some((pid, _)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) else {
        return false;
    };
    let Ok(pid) = pid.parse::<u32>() else { return false };
    pid == process::id() || !Path::new(&format!("/proc/{pid}")).exists()
}

#[cfg(test)]
mod tests {
    use super::is_dead;

    #[test]
    fn only_names_of_ours_are_dead() {
        assert!(is_dead("lbt4194999-0-node"), "no such process can exist, because pids end at 4194304");
        assert!(!is_dead("lbt1-0-node"), "init is running");
        assert!(!is_dead("lbt-node") && !is_dead("node") && !is_dead("lbtx-1"));
    }
}
