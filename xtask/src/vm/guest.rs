//! Running programs in a guest.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use xtask::toolchain;

use super::{
    initrd::{self, MODULE_TREE, PROGRAM, PROJECT, ROOT, SHARED},
    kernel::Kernel,
    userland,
};
use crate::{architecture::Architecture, outcome::Outcome};

/// Memory of a guest in MiB: the maps of several agents at once, and what the tests write to /run.
const MEMORY: u32 = 4_096;
/// What a guest may need beside its steps: to boot, to load modules, to end.
const SPARE: Duration = Duration::from_secs(120);

/// Modules that tests look for and that nothing loads on demand.
const MODULES: [&str; 3] = ["bridge", "br_netfilter", "nf_tables"];

/// A program that runs in the guest.
pub struct Step {
    pub title: String,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// Where the program starts.
    pub folder: PathBuf,
    pub limit: Duration,
    /// Whether the program prints results of tests; otherwise its exit status is the result.
    pub has_tests: bool,
}

/// A kernel, and what its programs find in their environment.
pub struct Guest<'a> {
    pub kernel: &'a Kernel,
    pub environment: Vec<(&'a str, OsString)>,
}

impl Guest<'_> {
    /// Boots, runs the steps one after the other, and shows what they print. A step that did not end, because the
    /// guest died or was too slow, has failed.
    pub fn run(&self, steps: &[Step], out: &mut impl Write) -> Vec<Outcome> {
        let mut reader = Reader::new(&self.kernel.name(), steps);
        let end = self.boot(steps, &mut reader, out);
        reader.outcomes(end)
    }

    fn boot(&self, steps: &[Step], reader: &mut Reader, out: &mut impl Write) -> Result<()> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("guest-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let shared = toolchain::root().join("target").join(name);
        fs::create_dir_all(&shared).with_context(|| format!("{} cannot be made", shared.display()))?;
        let result = fs::write(shared.join(PROGRAM), self.script(steps))
            .context("the guest's program cannot be written")
            .and_then(|()| self.qemu(steps, &shared))
            .and_then(|qemu| watch(qemu, reader, out));
        // What is left in the folder is of no use; nothing else failed if it stays.
        let _ = fs::remove_dir_all(&shared);
        result
    }

    fn script(&self, steps: &[Step]) -> Vec<u8> {
        let mut script = Vec::new();
        for (name, value) in &self.environment {
            script.extend([b"export ", name.as_bytes(), b"=", &quoted(value), b"\n"].concat());
        }
        script.extend(
            format!(
                "export HOME=/root\nulimit -n 1048576\nip link set lo up\n\
             for m in {}; do modprobe -q $m; done\n\
             sysctl -q net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1\n\
             step() {{ echo \"{BEGIN}$1\"; cd \"$3\"; limit=$2; shift 3; \
             timeout --kill-after=10 $limit \"$@\" </dev/null 2>&1; echo \"{END}$?\"; }}\n",
                MODULES.join(" ")
            )
            .into_bytes(),
        );
        for step in steps {
            script.extend(b"step ");
            script.extend(quoted(step.title.as_ref()));
            script.extend(format!(" {} ", step.limit.as_secs()).into_bytes());
            script.extend(quoted(step.folder.as_os_str()));
            for word in [step.program.as_os_str()].into_iter().chain(step.arguments.iter().map(OsStr::new)) {
                script.push(b' ');
                script.extend(quoted(word));
            }
            script.push(b'\n');
        }
        script
    }

    fn qemu(&self, steps: &[Step], shared: &Path) -> Result<Command> {
        let limit = steps.iter().map(|step| step.limit).sum::<Duration>() + SPARE;
        let root = userland::ensure(self.kernel.architecture)?;
        // The host's tree has the project in it.
        let project = Some(toolchain::root()).filter(|_| root != Path::new("/"));
        let initrd = initrd::write(self.kernel, &root, project, shared)?;
        // `timeout` ends QEMU too if this process is gone.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "timeout", "--kill-after=10"]).arg(limit.as_secs().to_string());
        command.arg(format!("qemu-system-{}", self.kernel.architecture.machine()));
        let console = match self.kernel.architecture {
            Architecture::Amd64 => {
                command.args(["-cpu", "max"]);
                "ttyS0"
            }
            Architecture::Arm64 => {
                // The architecture's own cipher for pointers would take half of the time.
                command.args(["-machine", "virt", "-cpu", "max,pauth-impdef=on"]);
                "ttyAMA0"
            }
        };
        command.args(["-accel", "tcg,thread=multi", "-smp", "2"]);
        command.args(["-m", &MEMORY.to_string(), "-display", "none", "-serial", "stdio", "-monitor", "none"]);
        command.args(["-no-reboot", "-nic", "none"]);
        command.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(initrd);
        // What the guest's mitigations cost, TCG makes ten times dearer.
        command.arg("-append");
        command.arg(format!("console={console} quiet loglevel=1 panic=-1 mitigations=off rdinit=/init"));
        let modules = self.kernel.folder.join("lib/modules");
        let shares = [(ROOT, &*root, "on"), (MODULE_TREE, &modules, "on"), (SHARED, shared, "off")];
        for (tag, path, readonly) in shares.into_iter().chain(project.map(|path| (PROJECT, path, "on"))) {
            let mut share = OsString::from("local,path=");
            share.push(path);
            share.push(format!(",mount_tag={tag},security_model=none,readonly={readonly},multidevs=remap"));
            command.arg("-virtfs").arg(share);
        }
        Ok(command)
    }
}

/// A word for the shell.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(br"'\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

const BEGIN: &str = "@@ begin ";
const END: &str = "@@ end ";

fn watch(mut qemu: Command, reader: &mut Reader, out: &mut impl Write) -> Result<()> {
    let (read, write) = io::pipe().context("cannot make a pipe")?;
    qemu.stdin(Stdio::null()).stdout(write.try_clone()?).stderr(write);
    let begun = Instant::now();
    let child = qemu.spawn().context("setpriv cannot be started");
    // This closes our writing ends of the pipe, which would keep it open.
    drop(qemu);
    let mut child = child?;
    for line in BufReader::new(read).split(b'\n') {
        let line = line.context("the guest's console")?;
        let line = String::from_utf8_lossy(&line);
        // The console's lines end as a terminal's do.
        let line = line.trim_end_matches('\r');
        reader.read(line, begun.elapsed());
        // A closed stdout is not a failure of a test.
        let _ = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
    }
    let status = child.wait()?;
    match status.code() {
        Some(0) => Ok(()),
        Some(124 | 137) => Err(anyhow!("the guest took too long")),
        _ => Err(anyhow!("QEMU failed ({status})")),
    }
}

/// Reads the console, step by step.
struct Reader<'a> {
    kernel: String,
    steps: &'a [Step],
    ended: Vec<Outcome>,
    /// The step that runs, and when it began.
    open: Option<(Outcome, Duration)>,
    last: String,
}

impl<'a> Reader<'a> {
    fn new(kernel: &str, steps: &'a [Step]) -> Self {
        Self { kernel: kernel.to_owned(), steps, ended: Vec::new(), open: None, last: String::new() }
    }

    fn title(&self, step: &Step) -> String {
        format!("{}: {}", self.kernel, step.title)
    }

    fn read(&mut self, line: &str, at: Duration) {
        if !line.trim().is_empty() {
            line.clone_into(&mut self.last);
        }
        // The boot loader writes to the console without ending its line.
        if line.contains(BEGIN) {
            let Some(step) = self.steps.get(self.ended.len()) else { return };
            self.open = Some((Outcome::new(&self.title(step)), at));
            return;
        }
        let Some((mut outcome, begun)) = self.open.take() else { return };
        let time = at.saturating_sub(begun);
        // What a program printed last may lack the end of its line.
        let Some(code) = line.rsplit_once(END).and_then(|(_, code)| code.parse::<i32>().ok()) else {
            outcome.read(line, time);
            self.open = Some((outcome, begun));
            return;
        };
        if self.steps.get(self.ended.len()).is_some_and(|step| !step.has_tests) && code == 0 {
            outcome = Outcome::of_step(&outcome.title, Ok(()), time);
        } else {
            outcome.end(ExitStatus::from_raw(code << 8), time);
        }
        self.ended.push(outcome);
    }

    /// The outcomes of all steps; those that did not end have failed, because of `end`.
    fn outcomes(mut self, end: Result<()>) -> Vec<Outcome> {
        let reason = end.map_or_else(|error| format!("{error:#}"), |()| "the guest ended".to_owned());
        if let Some(step) = self.steps.get(self.ended.len()) {
            let error = anyhow!("{reason}; its last line: {}", self.last);
            self.ended.push(Outcome::of_step(&self.title(step), Err(error), Duration::ZERO));
        }
        for step in self.steps.iter().skip(self.ended.len()) {
            self.ended.push(Outcome::of_step(&self.title(step), Err(anyhow!("not run")), Duration::ZERO));
        }
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps() -> Vec<Step> {
        let step = |title: &str, has_tests| Step {
            title: title.to_owned(),
            program: PathBuf::new(),
            arguments: Vec::new(),
            folder: PathBuf::new(),
            limit: Duration::from_secs(1),
            has_tests,
        };
        vec![step("check", false), step("tc", true), step("demo", false)]
    }

    fn outcomes(lines: &[&str], end: Result<()>) -> Vec<String> {
        let steps = steps();
        let mut reader = Reader::new("6.1", &steps);
        for (line, at) in lines.iter().zip(0..) {
            reader.read(line, Duration::from_secs(at));
        }
        reader.outcomes(end).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_step_has_its_outcome() {
        let lines = [
            "Booting from ROM..@@ begin check",
            "ok",
            "no end of line@@ end 0",
            "@@ begin tc",
            "test a ... ok",
            "test result: ok. 1 passed; 0 failed; 0 ignored",
            "@@ end 0",
            "@@ begin demo",
            "@@ end 1",
        ];
        assert_eq!(
            outcomes(&lines, Ok(())),
            [
                "6.1: check: 1 passed, 0 failed, 2.0 s",
                "6.1: tc: 1 passed, 0 failed, 3.0 s",
                "6.1: demo: 0 passed, 1 failed (exit status: 1), 1.0 s"
            ]
        );
    }

    #[test]
    fn what_did_not_end_has_failed() {
        let lines = ["@@ begin check", "@@ end 0", "@@ begin tc", "test a ... ok", "Kernel panic", ""];
        assert_eq!(
            outcomes(&lines, Err(anyhow!("the guest took too long"))),
            [
                "6.1: check: 1 passed, 0 failed, 1.0 s",
                "6.1: tc: 0 passed, 1 failed (the guest took too long; its last line: Kernel panic), 0.0 s",
                "6.1: demo: 0 passed, 1 failed (not run), 0.0 s"
            ]
        );
    }

    #[test]
    fn a_word_stays_a_word() {
        assert_eq!(quoted(OsStr::new("it's $HOME")), br"'it'\''s $HOME'");
    }
}
