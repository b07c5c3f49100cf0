//! The subjects of the measurement, as processes on the node.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lb_tests::cluster::KubeProxy;
use lb_tests::world::{NODE_NAME, World};

use super::bare;
use super::population::{LAST, PROBED};
use super::probe::Probe;

/// How long a start may take. kube-proxy has taken 17 s for 10,000 Services.
const LIMIT: Duration = Duration::from_secs(300);
const STEP: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Lists and watches, and keeps nothing.
    Bare,
    Lb,
    /// `lb` started again, with the tables of the previous process.
    LbRestarted,
    KubeProxy,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare client",
            Self::Lb => "lb",
            Self::LbRestarted => "lb, restarted",
            Self::KubeProxy => "kube-proxy, nftables",
        }
    }
}

/// A process on the node. Killed when dropped.
pub struct Subject {
    pub kind: Kind,
    child: Child,
    log: PathBuf,
    began: Instant,
}

impl Subject {
    pub fn start(kind: Kind, world: &World, lb: &Path, kubeconfig: &Path) -> Result<Self> {
        let (folder, pins) = (world.folder(), world.folder().pins());
        let mut command = match kind {
            Kind::Bare => {
                let mut command = world.node().command(std::env::current_exe()?);
                command.arg("bare-client").arg(kubeconfig);
                command
            }
            Kind::Lb | Kind::LbRestarted => {
                let mut command = world.node().command(lb);
                command
                    .args(["agent", "--socket-lb=off", "--node-name", NODE_NAME, "--kubeconfig"])
                    .arg(kubeconfig);
                command.arg("--pin-dir").arg(pins);
                command
            }
            Kind::KubeProxy => KubeProxy::command(world, kubeconfig, "nftables")?,
        };
        let log = folder.path().join(format!("{}.log", kind.name().replace([' ', ','], "-")));
        let output = File::create(&log)?;
        command.env("NO_COLOR", "1").stdout(output.try_clone()?).stderr(output);
        let began = Instant::now();
        let child = command.spawn().with_context(|| kind.name())?;
        Ok(Self { kind, child, log, began })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until everything is in force; returns the time since the start. `lb` and the bare client report this
    /// state; for kube-proxy, any server must answer for the probed and the last Service.
    pub fn wait_until_ready(&mut self, probe: &Probe) -> Result<Duration> {
        if self.kind == Kind::KubeProxy {
            let mut ready = self.began;
            for service in [PROBED, LAST] {
                probe.ask(service, &["b1", "b2", "b3", "b4"], LIMIT);
                ready = ready.max(probe.wait().with_context(|| self.log())?);
            }
            return Ok(ready - self.began);
        }
        loop {
            let now = Instant::now();
            if self.log().split(|c: char| !c.is_alphanumeric()).any(|word| word == bare::DONE) {
                return Ok(now - self.began);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.kind.name(), self.log());
            }
            if now - self.began > LIMIT {
                bail!("{} is not ready after {LIMIT:?}:\n{}", self.kind.name(), self.log());
            }
            std::thread::sleep(STEP);
        }
    }

    pub fn log(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.kind.name(), self.log());
        }
    }
}
