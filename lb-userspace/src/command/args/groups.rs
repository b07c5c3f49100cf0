//! Groups of options that more than one command takes, or that belong together.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lb_common::capacity;

use crate::agent;
use crate::dataplane::shape::Sizes;
use crate::model::{ExternalIpCidrs, NodePortAddresses, Rules, ServiceCidrs};
use crate::node::role::{Overrides, Role};
use crate::source::api;

#[derive(Args)]
pub struct SizeArgs {
    /// Maximum number of connections tracked at once, of which a sixteenth each may be half-open, unanswered, and ended;
    /// may be changed at each start
    #[arg(long, value_name = "N", default_value_t = capacity::FLOWS as u32 / 2,
          value_parser = clap::value_parser!(u32).range(i64::from(Sizes::LEAST_FLOWS) / 2..=MOST_FLOWS))]
    pub max_flows: u32,
}

impl SizeArgs {
    pub fn sizes(&self) -> Sizes {
        // A flow has two entries.
        Sizes { flows: self.max_flows * 2 }
    }
}

/// The entries of a map are counted in 32 bits, and half of that range already takes some 200 GB.
const MOST_FLOWS: i64 = 1 << 30;

/// The source of the objects. Without any of these: the API server, as a pod of its cluster.
#[derive(Args)]
pub struct SourceArgs {
    /// Follow a folder of Service, EndpointSlice and Node objects, as `kubectl get -o yaml` prints them, instead of an
    /// API server
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "api_server"])]
    pub manifests: Option<PathBuf>,
    #[command(flatten)]
    pub api: ApiArgs,
}

#[derive(Args)]
pub struct ApiArgs {
    /// File with the address and credentials of the API server [default: the service account of the pod]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Address of the API server; takes precedence over the kubeconfig and the pod's environment
    #[arg(long, value_name = "URL", env = "LB_API_SERVER")]
    pub api_server: Option<String>,
}

impl ApiArgs {
    pub fn access(self) -> api::Access {
        api::Access { kubeconfig: self.kubeconfig, server: self.api_server, ..api::Access::default() }
    }
}

impl SourceArgs {
    /// `kubeconfig` is the path from the configuration or the flag.
    pub fn source(self, kubeconfig: Option<PathBuf>) -> agent::Source {
        match self.manifests {
            Some(dir) => agent::Source::Manifests(dir),
            None => agent::Source::Api(api::Access { kubeconfig, ..self.api.access() }),
        }
    }
}

/// Configuration and flags of kube-proxy; a flag takes precedence over the file.
#[derive(Args)]
#[command(next_help_heading = "Options of kube-proxy (docs/config.md)")]
pub struct KubeProxyArgs {
    /// KubeProxyConfiguration file (v1alpha1), as kubeadm writes it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write the configuration in force to a file and exit
    #[arg(long, value_name = "FILE")]
    pub write_config_to: Option<PathBuf>,
    /// Selects the address family of the defaults of the two options below
    #[arg(long, value_name = "ADDRESS")]
    pub bind_address: Option<String>,
    /// Address of /healthz and /livez; empty for none [default: 0.0.0.0:10256]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub healthz_bind_address: Option<String>,
    /// Address of /metrics; empty for none [default: 127.0.0.1:10249]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_bind_address: Option<String>,
    /// Exit if one of these ports cannot be opened, instead of trying again
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub bind_address_hard_fail: Option<bool>,
    /// OOM score adjustment of the agent: from -1000 (never killed when memory is short) to 1000
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true)]
    pub oom_score_adj: Option<i32>,
}

/// Rules that apply to all Services.
#[derive(Args, PartialEq)]
pub struct RuleArgs {
    /// Node addresses on which NodePorts answer: all, primary, localhost and prefixes, separated by commas
    /// [default: all]
    #[arg(long, value_name = "LIST")]
    pub nodeport_addresses: Option<NodePortAddresses>,
    /// Prefixes to which externalIPs are restricted, separated by commas; or any, or none [default: any]
    #[arg(long, value_name = "CIDR,...")]
    pub external_ip_cidrs: Option<ExternalIpCidrs>,
    /// Prefixes of ClusterIPs in addition to ServiceCIDR objects, separated by commas. Packets to an address in these
    /// prefixes that no Service has are dropped
    #[arg(long, value_name = "CIDR,...")]
    pub service_cidrs: Option<ServiceCidrs>,
    /// Serve the Services whose label service.kubernetes.io/service-proxy-name has this value, instead of those without
    /// the label
    #[arg(long, value_name = "NAME")]
    pub service_proxy_name: Option<String>,
}

impl RuleArgs {
    pub fn rules(&self) -> Rules {
        Rules {
            service_proxy_name: self.service_proxy_name.clone(),
            external_ip_cidrs: self.external_ip_cidrs.clone().unwrap_or_default(),
            service_cidrs: self.service_cidrs.clone().unwrap_or_default(),
            node_port_addresses: self.nodeport_addresses.clone().unwrap_or_default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let Self { nodeport_addresses, external_ip_cidrs, service_cidrs, service_proxy_name } = self;
        nodeport_addresses.is_none()
            && external_ip_cidrs.is_none()
            && service_cidrs.is_none()
            && service_proxy_name.is_none()
    }
}

#[derive(Args)]
pub struct PinArgs {
    /// Folder in which maps and links are pinned, on a bpffs (the agent mounts one if there is none)
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/lb")]
    pub pin_dir: PathBuf,
}

#[derive(Args)]
pub struct RoleArgs {
    /// Give a link a role: pod, uplink, tunnel or none
    #[arg(long = "link-role", value_name = "LINK=ROLE", value_parser = link_role)]
    pub link_roles: Vec<(String, Role)>,
}

impl RoleArgs {
    pub fn overrides(&self) -> Overrides {
        self.link_roles.iter().cloned().collect()
    }
}

fn link_role(text: &str) -> Result<(String, Role), String> {
    let (link, role) = text.split_once('=').ok_or_else(|| format!("{text}: expected LINK=ROLE"))?;
    Ok((link.to_owned(), role.parse()?))
}

#[derive(Args)]
pub struct OutputArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Clone, Copy, Default, ValueEnum)]
pub enum Output {
    #[default]
    Table,
    Json,
}
