//! `lb agent` as a process in the node's namespace.

use super::NODE_NAME;
use super::folder::Folder;
use super::netns::Netns;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

const READY_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(5);

/// The `lb` under test: `$LB_BIN`, or the one that cargo put next to the running executable.
pub fn lb_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LB_BIN") {
        let path = PathBuf::from(path);
        return fs::canonicalize(&path).with_context(|| format!("LB_BIN={}", path.display()));
    }
    let mine = std::env::current_exe()?;
    let beside = mine.ancestors().skip(1).take(2).map(|folder| folder.join("lb"));
    beside.into_iter().find(|path| path.is_file()).with_context(|| {
        format!("no lb next to {}: run `cargo build -p lb-userspace`, or set LB_BIN", mine.display())
    })
}

/// A running agent, or one that was stopped and can be started again. Killed when dropped.
pub struct Agent {
    binary: PathBuf,
    netns: Netns,
    args: Vec<String>,
    log: PathBuf,
    /// The offset in the log at which this start begins.
    log_start: usize,
    child: Option<Child>,
}

impl Agent {
    /// Starts an agent without waiting. `source` has the flag for the source of its objects, and the value of the flag.
    pub(super) fn start(
        binary: &Path,
        node: &Netns,
        folder: &Folder,
        source: [&Path; 2],
        extra: &[&str],
    ) -> Result<Self> {
        let (source, pins) = (source.map(Path::to_string_lossy), folder.pins());
        let pins = pins.to_string_lossy();
        let mut args: Vec<String> =
            ["agent", &source[0], &source[1], "--node-name", NODE_NAME, "--pin-dir", &pins]
                .map(String::from)
                .into();
        // Otherwise the agent would look at every socket of the machine.
        if !extra.iter().any(|arg| arg.starts_with("--socket-lb")) {
            args.push("--socket-lb=off".to_owned());
        }
        args.extend(extra.iter().map(ToString::to_string));
        Self::start_by(binary, node, folder, args)
    }

    /// Starts a program that becomes the agent, without waiting. `args` are all of its arguments.
    pub(super) fn start_by(binary: &Path, node: &Netns, folder: &Folder, args: Vec<String>) -> Result<Self> {
        let log = folder.agent_log();
        let mut agent =
            Self { binary: binary.into(), netns: node.clone(), args, log, log_start: 0, child: None };
        agent.spawn()?;
        Ok(agent)
    }

    /// Starts the stopped agent with its previous arguments, and waits until it is ready.
    pub fn start_again(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_until_ready()
    }

    /// Starts the stopped agent without waiting.
    pub fn spawn(&mut self) -> Result<()> {
        assert!(self.child.is_none(), "the agent is already running");
        let log = File::options().create(true).append(true).open(&self.log)?;
        self.log_start = log.metadata()?.len() as usize;
        let mut command = self.netns.command(&self.binary);
        command.args(&self.args).env("NO_COLOR", "1").env("RUST_BACKTRACE", "1");
        command.stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().with_context(|| self.binary.display().to_string())?);
        Ok(())
    }

    /// Waits for the line with the word "ready", which means that the first state is applied.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let is_ready = |log: &str| log.split(|c: char| !c.is_alphanumeric()).any(|word| word == "ready");
        self.wait_for("the word \"ready\"", READY_LIMIT, is_ready)
    }

    /// Waits until the log of this start contains a text.
    pub fn wait_for_text(&mut self, text: &str, limit: Duration) -> Result<()> {
        self.wait_for(&format!("{text:?}"), limit, |log| log.contains(text))
    }

    fn wait_for(&mut self, what: &str, limit: Duration, found: impl Fn(&str) -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            // Checked before the log is read, so that the log of a dead agent is complete.
            let ended = self.child.as_mut().context("the agent is not running")?.try_wait()?;
            let log = self.log();
            if found(&log) {
                return Ok(());
            }
            if let Some(status) = ended {
                bail!("the agent ended with {status} before it logged {what}:\n{log}");
            }
            if Instant::now() > deadline {
                bail!("the agent did not log {what} within {limit:?}:\n{log}");
            }
            sleep(STEP);
        }
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The log since the last start.
    pub fn log(&self) -> String {
        let whole = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(whole.get(self.log_start..).unwrap_or_default()).into_owned()
    }

    /// Sends SIGKILL: the agent cannot clean up.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the agent is not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Sends SIGTERM, and returns how the agent ended.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        let child = self.child.as_mut().context("the agent is not running")?;
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM)?;
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("the agent has ignored SIGTERM for {STOP_LIMIT:?}:\n{}", self.log());
            }
            sleep(STEP);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill().ok();
        }
        if std::thread::panicking() {
            eprintln!("--- log of the agent ---\n{}--- end of the log ---", self.log());
        }
    }
}
