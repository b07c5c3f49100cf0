//! A real kube-proxy on the node of a world.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use anyhow::{Context, Result};
use xtask::control_plane::Program;

use crate::world::{NODE_NAME, World};

/// A running kube-proxy. Killed when dropped, so that it has no chance to clean up.
pub struct KubeProxy {
    child: Child,
    log: PathBuf,
}

impl KubeProxy {
    /// The command that runs kube-proxy in this mode (`iptables`, `nftables`), with the configuration as kubeadm writes
    /// it, except for conntrack's limits, which belong to the machine.
    pub fn command(world: &World, kubeconfig: &Path, mode: &str) -> Result<Command> {
        let config = world.folder().path().join(format!("kube-proxy-{mode}.yaml"));
        fs::write(
            &config,
            format!(
                "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n\
                 kind: KubeProxyConfiguration\n\
                 mode: {mode}\n\
                 hostnameOverride: {NODE_NAME}\n\
                 clusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n\
                 clientConnection: {{kubeconfig: {}}}\n\
                 conntrack: {{maxPerCore: 0}}\n",
                kubeconfig.display()
            ),
        )?;
        let mut command = world.node().command(Program::KubeProxy.find()?);
        command.arg("--config").arg(config);
        Ok(command)
    }

    /// Starts a command of [`command`](Self::command), with its log in the world's folder.
    pub fn start(world: &World, mut command: Command) -> Result<Self> {
        let log = world.folder().path().join("kube-proxy.log");
        let file = File::create(&log)?;
        let child = command.stdout(file.try_clone()?).stderr(file).spawn().context("kube-proxy")?;
        Ok(Self { child, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it has ended; `None` while it runs.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
