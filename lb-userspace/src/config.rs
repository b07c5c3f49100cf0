//! What kube-proxy's configuration file and flags mean for the agent. docs/config.md maps each field.

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

/// Flags with kube-proxy's names; each wins over the file. An empty address is no server.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub config: Option<PathBuf>,
    pub kubeconfig: Option<PathBuf>,
    pub hostname_override: Option<String>,
    pub bind_address: Option<String>,
    pub healthz_bind_address: Option<String>,
    pub metrics_bind_address: Option<String>,
    pub bind_address_hard_fail: Option<bool>,
    /// With commas.
    pub nodeport_addresses: Option<String>,
    pub oom_score_adj: Option<i32>,
}

/// What is in force.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The whole of it, for `/configz` and `--write-config-to`.
    pub effective: KubeProxyConfiguration,
    pub kubeconfig: Option<PathBuf>,
    pub hostname_override: Option<String>,
    pub healthz: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    /// A port that cannot be had ends the agent.
    pub hard_fail: bool,
    pub node_port_addresses: Vec<String>,
    /// How long a change may wait before health says so: twice the sync period.
    pub health_timeout: Duration,
    /// `None` where neither file nor flag asks for one.
    pub oom_score_adj: Option<i32>,
    /// What of the file has no effect here, or is not known.
    pub remarks: Vec<Remark>,
}

impl Settings {
    /// File, then flags, then defaults.
    ///
    /// # Errors
    /// Where the file cannot be read or is no KubeProxyConfiguration, or a value of it (or of a flag) that is needed
    /// does not read.
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

    /// Which addresses node ports are served on.
    ///
    /// # Errors
    /// None: it was tried before.
    pub fn node_port_addresses(&self) -> anyhow::Result<NodePortAddresses> {
        parse_node_ports(&self.node_port_addresses)
    }

    /// Tells the kernel how unlikely it is to end this process; where that is not allowed, it is said.
    pub fn adjust_oom_score(&self) {
        let Some(score) = self.oom_score_adj else { return };
        if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
            tracing::info!("oomScoreAdj {score} is not set: {error}");
        }
    }

    /// Writes the configuration in force, as `kube-proxy --write-config-to` does.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        // By way of JSON: names come sorted, as Kubernetes writes YAML.
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
        // kube-proxy's own treatment of this flag.
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

/// The file, and what of it is not known.
fn read(path: &Path) -> anyhow::Result<(KubeProxyConfiguration, Vec<Remark>)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    KubeProxyConfiguration::parse(&text).with_context(|| path.display().to_string())
}

/// `address`, or `address:port`, as kube-proxy takes it.
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
