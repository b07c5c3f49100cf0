//! A process that looks like a kube-proxy.

use anyhow::{Context, Result};
use lb_tests::world::Netns;
use std::fs;
use std::path::Path;
use std::process::Child;

/// A process with this name in a namespace; it only sleeps.
pub struct Process(Child);

impl Process {
    pub fn start(folder: &Path, netns: &Netns, name: &str) -> Result<Self> {
        let program = folder.join(name);
        if !program.exists() {
            fs::copy("/bin/sleep", &program).context("copy /bin/sleep")?;
        }
        Ok(Self(netns.command(&program).arg("300").spawn()?))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
