//! What the kernel can do: tried, never guessed from its version.

use super::line::{Level, Line, error, ok, unseen, warning};
use super::options::Options;
use crate::dataplane::load::{self, Constants, Tried};
use crate::dataplane::probe;
use crate::dataplane::sys::grace::Grace;

/// Without the capabilities that the agent needs, some things cannot be tried.
pub fn check(may_try: bool, options: &Options) -> Vec<Line> {
    if may_try {
        let programs = programs(options);
        // The kernel may have the hooks and yet refuse the programs, which are one object.
        let sockets = match programs.level {
            Level::Error => unseen("sockets", &"not tried, because the programs are refused"),
            _ => sockets(),
        };
        return vec![programs, btf(), grace(), sockets];
    }
    let untried = |check| unseen(check, &"not tried without the capabilities above");
    vec![untried("programs"), btf(), untried("grace"), untried("sockets")]
}

fn programs(options: &Options) -> Line {
    match load::try_out(&options.pins, Constants::default(), options.sizes) {
        Ok(Tried { programs, instructions }) => {
            ok("programs", format!("the kernel accepts all {programs}; {instructions} instructions verified"))
        }
        Err(refused) => error(
            "programs",
            format!("the programs cannot take over here: {}", last_words(&format!("{refused:#}"))),
            "If the message names a table, follow it. Otherwise the kernel is older than Linux 6.1, the oldest that is \
             tested, or lacks a required option; please report its version and this line",
        ),
    }
}

/// Shortens the log of the verifier, which is long and ends with what matters, and then with statistics.
fn last_words(text: &str) -> String {
    const SHOWN: usize = 4;
    const STATISTICS: [&str; 3] = ["verification time ", "stack depth ", "processed "];
    let counts = |line: &&str| !STATISTICS.iter().any(|start| line.starts_with(start));
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).filter(counts).collect();
    match lines.as_slice() {
        [first, .., _] if lines.len() > SHOWN + 1 => {
            format!("{first} ... {}", lines[lines.len() - SHOWN..].join(" | "))
        }
        lines => lines.join(" | "),
    }
}

fn btf() -> Line {
    match probe::btf() {
        Ok(()) => ok("btf", "/sys/kernel/btf/vmlinux"),
        Err(error) => warning(
            "btf",
            format!("the kernel does not describe its types: {error:#}"),
            "no program needs it today; kernels of distributions have CONFIG_DEBUG_INFO_BTF=y",
        ),
    }
}

/// Ids and regions of the tables are reused only after a proven grace period.
fn grace() -> Line {
    match Grace::new().and_then(|grace| grace.wait()) {
        Ok(()) => ok("grace", "the kernel proves grace periods (an update of a map of maps)"),
        Err(failed) => error(
            "grace",
            format!("the kernel has no maps of maps: {failed}"),
            "without them nothing in the tables can be reused: use a kernel built with CONFIG_BPF_SYSCALL",
        ),
    }
}

fn sockets() -> Line {
    match probe::has_socket_programs() {
        Ok(true) => {
            ok("sockets", "the kernel has cgroup programs at connect, sendmsg, recvmsg and getpeername")
        }
        Ok(false) => warning(
            "sockets",
            "the kernel has no cgroup programs for sockets",
            "processes of the host reach no Service: use a kernel with CONFIG_CGROUP_BPF",
        ),
        Err(error) => unseen("sockets", &format_args!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::last_words;

    #[test]
    fn of_a_long_refusal_the_beginning_and_the_end_are_shown() {
        let long: Vec<String> = (0..100).map(|n| format!("{n}: (b7) r0 = 0")).collect();
        let words = last_words(&long.join("\n"));
        assert!(words.starts_with("0: (b7) r0 = 0 ... 96:") && words.ends_with("99: (b7) r0 = 0"), "{words}");
        assert_eq!(last_words("no\n\nright\n"), "no | right");
    }

    #[test]
    fn the_line_that_decides_is_shown_and_not_the_statistics() {
        let log = "Permission denied. Verifier output: Func#3 is safe\n1: (85) call bpf_map_lookup_elem#1\nR2 type=mem \
                   expected=fp\nverification time 119 usec\nstack depth 0+0\nprocessed 2869 insns\n: Permission denied";
        let words = last_words(log);
        assert!(words.contains("R2 type=mem expected=fp | : Permission denied"), "{words}");
    }
}
