//! What kube-proxy's configuration file and flags mean for the agent. docs/config.md explains each field.

mod duration;
mod kube_proxy;
mod remark;
mod review;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

pub use duration::GoDuration;
pub use kube_proxy::KubeProxyConfiguration;
pub use remark::Remark;
pub use review::review;

use crate::model::NodePortAddresses;
use kube_proxy::{HEALTHZ_PORT, METRICS_PORT, parse_node_ports};

/// Flags with kube-proxy's names; each takes precedence over the file. An empty address means no server.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub config: Option<PathBuf>,
    pub kubeconfig: Option<PathBuf>,
    pub hostname_override: Option<String>,
    pub bind_address: Option<String>,
    pub healthz_bind_address: Option<String>,
    pub metrics_bind_address: Option<String>,
    pub bind_address_hard_fail: Option<bool>,
    /// Separated by commas.
    pub nodeport_addresses: Option<String>,
    pub oom_score_adj: Option<i32>,
}

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct Settings {
    /// All of it, for `/configz` and `--write-config-to`.
    pub effective: KubeProxyConfiguration,
    pub kubeconfig: Option<PathBuf>,
    pub hostname_override: Option<String>,
    /// `None`: no server. The same holds for `metrics`.
    pub healthz: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    /// The agent exits if a port cannot be opened.
    pub hard_fail: bool,
    pub node_port_addresses: Vec<String>,
    /// How long a change may wait before the agent reports itself unhealthy: twice the sync period.
    pub health_timeout: Duration,
    /// `None` if neither the file nor a flag asks for a score.
    pub oom_score_adj: Option<i32>,
    /// The fields of the file that are unknown or have no effect here.
    pub remarks: Vec<Remark>,
}

impl Settings {
    /// Reads the file, applies the flags, then fills in kube-proxy's defaults.
    ///
    /// # Errors
    /// If the file cannot be read or is not a KubeProxyConfiguration, or if a needed value, of the file or of a flag,
    /// cannot be parsed.
    pub fn new(flags: &Flags) -> anyhow::Result<Self> {
        let (given, mut remarks) = match &flags.config {
            Some(path) => read(path)?,
            None => (KubeProxyConfiguration::default(), Vec::new()),
        };
        remarks.extend(review(&given)?);
        let mut effective = given.clone();
        flags.apply(&mut effective);
        effective.set_defaults();
        let address = |field: &str, flag: &Option<String>, text: &str, port| match flag.as_deref() {
            Some("") => Ok(None),
            _ => socket_address(text, port).with_context(|| field.to_owned()).map(Some),
        };
        if effective.bind_address.parse::<IpAddr>().is_err() {
            bail!("bindAddress: \"{}\" is not an IP address", effective.bind_address);
        }
        let sync_period = effective.sync_period();
        Ok(Self {
            kubeconfig: not_empty(&effective.client_connection.kubeconfig).map(PathBuf::from),
            hostname_override: not_empty(&effective.hostname_override).map(str::to_owned),
            healthz: address(
                "healthzBindAddress",
                &flags.healthz_bind_address,
                &effective.healthz_bind_address,
                HEALTHZ_PORT,
            )?,
            metrics: address(
                "metricsBindAddress",
                &flags.metrics_bind_address,
                &effective.metrics_bind_address,
                METRICS_PORT,
            )?,
            hard_fail: effective.bind_address_hard_fail,
            node_port_addresses: effective.node_port_addresses.clone().unwrap_or_default(),
            health_timeout: 2 * sync_period,
            oom_score_adj: flags
                .oom_score_adj
                .or(given.oom_score_adj)
                .or(flags.config.as_ref().and(effective.oom_score_adj)),
            remarks,
            effective,
        })
    }

    /// The addresses on which NodePorts answer.
    ///
    /// # Errors
    /// If an address cannot be parsed. [`Settings::new`] and the command line have already parsed all of them.
    pub fn node_port_addresses(&self) -> anyhow::Result<NodePortAddresses> {
        parse_node_ports(&self.node_port_addresses)
    }

    /// Tells the kernel how unlikely it is to kill this process when memory is short; logs a refusal.
    pub fn adjust_oom_score(&self) {
        let Some(score) = self.oom_score_adj else { return };
        if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
            tracing::info!("oomScoreAdj cannot be set to {score}: {error}");
        }
    }

    /// Writes the configuration in force, as `kube-proxy --write-config-to` does.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        // The detour through JSON sorts the names, as Kubernetes does in YAML.
        let text = serde_yaml_ng::to_string(&serde_json::to_value(&self.effective)?)?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }
}

impl Flags {
    fn apply(&self, config: &mut KubeProxyConfiguration) {
        fn set<T: Clone>(field: &mut T, flag: &Option<T>) {
            if let Some(value) = flag {
                field.clone_from(value);
            }
        }
        let kubeconfig = self.kubeconfig.as_ref().map(|path| path.display().to_string());
        set(&mut config.client_connection.kubeconfig, &kubeconfig);
        // kube-proxy treats this flag in the same way.
        let name = self.hostname_override.as_ref().map(|name| name.trim().to_lowercase());
        set(&mut config.hostname_override, &name);
        set(&mut config.bind_address, &self.bind_address);
        set(&mut config.healthz_bind_address, &self.healthz_bind_address);
        set(&mut config.metrics_bind_address, &self.metrics_bind_address);
        set(&mut config.bind_address_hard_fail, &self.bind_address_hard_fail);
        if let Some(list) = &self.nodeport_addresses {
            config.node_port_addresses = Some(list.split(',').map(str::to_owned).collect());
        }
        if self.oom_score_adj.is_some() {
            config.oom_score_adj = self.oom_score_adj;
        }
    }
}

/// Reads the file. Returns a remark for each unknown field.
fn read(path: &Path) -> anyhow::Result<(KubeProxyConfiguration, Vec<Remark>)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    KubeProxyConfiguration::parse(&text).with_context(|| path.display().to_string())
}

/// Parses `address` or `address:port`, as kube-proxy does. `port` is the default.
fn socket_address(text: &str, port: u16) -> anyhow::Result<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, port));
    }
    let Ok(address) = text.parse() else { bail!("\"{text}\" is not ADDRESS or ADDRESS:PORT") };
    Ok(address)
}

fn not_empty(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}
