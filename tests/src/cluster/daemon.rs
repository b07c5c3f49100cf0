//! Servers of the control plane as processes that do not outlive the harness.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::control_plane::Program;

use crate::sys;
use crate::world::Netns;

const STEP: Duration = Duration::from_millis(5);
/// The number of lines of a log that a failure shows.
const LAST_LINES: usize = 40;

/// The thread that starts servers. When the thread ends, for any reason, the kernel ends the servers
/// (`PR_SET_PDEATHSIG`). The thread of a test would end too early for a cluster that tests share.
pub(super) struct Keeper {
    netns: Netns,
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

struct Order {
    command: Command,
    started: mpsc::SyncSender<std::io::Result<Child>>,
}

impl Keeper {
    pub fn start(netns: &Netns) -> Self {
        let (orders, received) = mpsc::channel::<Order>();
        let work = move || {
            for mut order in received {
                // The sender of the order waits for the answer.
                order.started.send(order.command.spawn()).ok();
            }
        };
        Self { netns: netns.clone(), orders: Some(orders), thread: Some(std::thread::spawn(work)) }
    }

    pub fn spawn(&self, program: Program, args: Vec<String>, folder: &Path) -> Result<Daemon> {
        let log = folder.join(format!("{}.log", program.name()));
        let output = File::options().create(true).append(true).open(&log);
        let output = output.with_context(|| log.display().to_string())?;
        let mut command = self.netns.command(program.find()?);
        // Ctrl-C in a terminal must reach only the harness, which ends servers in an orderly way.
        command.args(args).stdout(output.try_clone()?).stderr(output).process_group(0);
        sys::end_with_parent(&mut command);
        let (started, child) = mpsc::sync_channel(1);
        let orders = self.orders.as_ref().expect("only drop takes the sender");
        orders.send(Order { command, started }).ok().context("the keeper of servers ended")?;
        let child = child.recv().context("the keeper of servers ended")?;
        let child = child.with_context(|| format!("{} cannot be started", program.name()))?;
        Ok(Daemon { program, child, log })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// A server process. Killed when dropped.
pub(super) struct Daemon {
    program: Program,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub fn require_running(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        bail!("{} ended with {status}:\n{}", self.program.name(), self.log())
    }

    /// The last lines of the log.
    pub fn log(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    pub fn kill(mut self) -> Result<()> {
        self.end()
    }

    /// Sends SIGTERM. Returns an error if the server does not end in time, or ends badly.
    pub fn stop(mut self, limit: Duration) -> Result<()> {
        kill(self.pid(), Signal::SIGTERM)?;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                // etcd ends by the signal itself, once it is done.
                let is_good = status.success() || status.signal() == Some(Signal::SIGTERM as i32);
                ensure!(is_good, "{} ended with {status}:\n{}", self.program.name(), self.log());
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} has ignored SIGTERM for {limit:?}:\n{}", self.program.name(), self.log());
            }
            std::thread::sleep(STEP);
        }
    }

    fn end(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end().ok();
        if std::thread::panicking() {
            eprintln!("--- end of the log of {} ---\n{}\n---", self.program.name(), self.log());
        }
    }
}
