//! A network namespace: made by `ip netns add`, entered by threads of this process, deleted at the end.

use crate::packet::Mac;
use crate::sys;
use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// Where `ip netns` keeps names.
pub(super) const FOLDER: &str = "/run/netns";

/// A namespace by name. Clones share it; the world that made it deletes the name.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
    file: Arc<File>,
}

impl Netns {
    pub(super) fn create(name: &str) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        let path = Path::new(FOLDER).join(name);
        let file = File::open(&path).with_context(|| format!("{}", path.display()))?;
        Ok(Self { name: name.into(), file: Arc::new(file) })
    }

    pub(super) fn delete(name: &str) -> Result<()> {
        run(Command::new("ip").args(["netns", "del", name])).map(drop)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a closure on a new thread inside the namespace; the caller's namespace never changes.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = || {
                self.join();
                work()
            };
            scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread that stays inside the namespace. The thread must end before the world.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let netns = self.clone();
        thread::spawn(move || {
            netns.join();
            drop(netns);
            work()
        })
    }

    fn join(&self) {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)
            .unwrap_or_else(|error| panic!("cannot enter namespace {}: {error} (root?)", self.name));
    }

    /// A command that will run inside the namespace but see the machine's own /sys and /proc (`ip netns exec` would
    /// hide bpffs).
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        sys::start_in(&mut command, self.file.as_raw_fd());
        command
    }

    /// Runs a command inside the namespace until it ends; returns its output, or an error with its messages.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        run(self.command(program).args(args)).with_context(|| format!("in namespace {}", self.name))
    }

    /// Runs lines of `ip` commands.
    pub fn ip(&self, batch: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start ip (package iproute2)")?;
        child.stdin.take().expect("stdin is piped").write_all(batch.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("namespace {}: {}\nin these lines:\n{batch}", self.name, said.trim());
        }
        Ok(())
    }

    /// Reads a sysctl such as `net/ipv4/ip_forward`. /proc/sys/net belongs to the namespace of the reading thread.
    pub fn sysctl(&self, key: &str) -> Result<String> {
        let path = sysctl_path(key);
        let text = self.enter(|| fs::read_to_string(&path)).with_context(|| path.display().to_string())?;
        Ok(text.trim().into())
    }

    /// Writes sysctls of this namespace, in order.
    pub fn set_sysctls(&self, values: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (key, value) in values {
                let path = sysctl_path(key);
                fs::write(&path, value).with_context(|| format!("{} = {value}", path.display()))?;
            }
            Ok(())
        })
    }

    /// The index of a link inside the namespace.
    pub fn link_index(&self, link: &str) -> Result<u32> {
        self.enter(|| nix::net::if_::if_nametoindex(link))
            .with_context(|| format!("no link {link} in namespace {}", self.name))
    }

    /// The MAC address of a link inside the namespace.
    pub fn link_mac(&self, link: &str) -> Result<Mac> {
        let shown = self.run("ip", &["-brief", "link", "show", "dev", link])?;
        shown.split_whitespace().nth(2).context("no MAC address")?.parse()
    }

    /// The processes in this namespace (threads of this process do not count).
    pub(super) fn processes(name: &str) -> Result<Vec<i32>> {
        let pids = run(Command::new("ip").args(["netns", "pids", name]))?;
        Ok(pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
    }

    /// The number of threads of this process that are still inside.
    pub(super) fn threads_inside(&self) -> Result<usize> {
        use std::os::unix::fs::MetadataExt;
        let inode = self.file.metadata()?.ino();
        // A thread that ended meanwhile is no longer inside.
        let is_inside = |task: &fs::DirEntry| {
            fs::metadata(task.path().join("ns/net")).is_ok_and(|namespace| namespace.ino() == inode)
        };
        Ok(fs::read_dir("/proc/self/task")?.flatten().filter(is_inside).count())
    }
}

fn sysctl_path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

/// Runs a command until it ends; returns its output, or an error with its messages.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}").replace('"', "");
    let output = command.output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` failed with {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
