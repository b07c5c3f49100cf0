//! The command line.

mod groups;

use std::path::{Path, PathBuf};

use super::view::files::Viewpoint;
use crate::dataplane::hook::Mode;
use crate::hooks::sockets::SocketOptions;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Parser, Subcommand};
use lb_common::Addr;

pub use groups::{
    ApiArgs, KubeProxyArgs, Output, OutputArgs, PinArgs, RoleArgs, RuleArgs, SizeArgs, SourceArgs,
};

/// What `lb --version` prints behind the name; docs/kernels.md says what is tested on which kernel.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\ntested on Linux 6.1, 6.12 and 6.18");

/// Serve Kubernetes Services with eBPF, in place of kube-proxy.
#[derive(Parser)]
#[command(name = "lb", version, long_version = VERSION, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run the node agent. On SIGTERM the agent stops; the data path keeps working
    Agent(Box<AgentArgs>),
    /// List Service ports: frontends, endpoints, policies
    Services(ViewArgs),
    /// List backends: each is one endpoint of one Service port
    Backends(ViewArgs),
    /// List tracked connections
    Flows(FlowArgs),
    /// Show the agent, links, tables and counters of this node
    Status(StatusArgs),
    /// Check whether this node can run the agent. Changes nothing; exits with 1 if a check fails
    Check(CheckArgs),
    /// Detach from every link and remove the tables; connections through them end
    Cleanup(CleanupArgs),
}

#[derive(Args)]
pub struct FlowArgs {
    #[command(flatten)]
    pub pins: PinArgs,
    /// Also list direct connections to a backend's address
    #[arg(long)]
    pub direct: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub pins: PinArgs,
    #[command(flatten)]
    pub roles: RoleArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub pins: PinArgs,
    #[command(flatten)]
    pub roles: RoleArgs,
    #[command(flatten)]
    pub api: ApiArgs,
    /// KubeProxyConfiguration file (v1alpha1) that the agent will use
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub sizes: SizeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args)]
pub struct AgentArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Name of this node's Node object, which decides which endpoints are local [default: the name in the
    /// configuration, otherwise the host name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME", visible_alias = "hostname-override")]
    pub node_name: Option<String>,
    #[command(flatten)]
    pub kube_proxy: KubeProxyArgs,
    /// Maximum number of service ports (and of backends) with traffic metrics of their own
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    pub metrics_limit: usize,
    #[command(flatten)]
    pub pins: PinArgs,
    /// How to attach programs to links
    #[arg(long, value_enum, default_value_t)]
    pub attach: Mode,
    #[command(flatten)]
    pub roles: RoleArgs,
    #[command(flatten)]
    pub rules: RuleArgs,
    #[command(flatten)]
    pub host_sockets: SocketOptions,
    /// Pass TCP segments of unknown connections to the kernel instead of answering with a RST, while connections of
    /// kube-proxy drain
    #[arg(long)]
    pub adopt: bool,
    /// Open or end a flow only by packets of a pod whose source address the node routes to the pod's link; `off` is for
    /// pods that send from addresses of other links
    #[arg(long, value_name = "on|off", default_value = "on", action = ArgAction::Set,
          value_parser = BoolishValueParser::new())]
    pub source_check: bool,
    #[command(flatten)]
    pub sizes: SizeArgs,
}

#[derive(Args)]
pub struct CleanupArgs {
    #[command(flatten)]
    pub pins: PinArgs,
    /// Remove what kube-proxy left instead: its rules in iptables (legacy and nft) and nftables, kube-ipvs0, ipsets
    /// and virtual servers. Nothing of lb is removed
    #[arg(long)]
    pub kube_proxy: bool,
    /// Print the commands that would clean up, and change nothing
    #[arg(long, requires = "kube_proxy")]
    pub dry_run: bool,
    /// Clean up even if kube-proxy is still running
    #[arg(long, requires = "kube_proxy")]
    pub force: bool,
    /// Folder on which the host's file system is mounted, for its iptables-legacy
    #[arg(long, value_name = "DIR", default_value = "/", requires = "kube_proxy")]
    pub host_root: PathBuf,
}

#[derive(Args)]
pub struct ViewArgs {
    #[command(flatten)]
    pub pins: PinArgs,
    /// Compute the view from a folder of manifests instead, without root and without the kernel
    #[arg(long, value_name = "DIR", requires = "node_name")]
    pub manifests: Option<PathBuf>,
    /// With --manifests: the node whose view is computed
    #[arg(long, value_name = "NAME", requires = "manifests")]
    pub node_name: Option<String>,
    /// With --manifests: the addresses of the node's interfaces, as `ip address` prints them [default: the InternalIPs
    /// of the Node object]
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',', value_parser = interface_address, requires = "manifests")]
    pub node_addresses: Option<Vec<Addr>>,
    #[command(flatten)]
    pub rules: RuleArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Parses an address, with or without a prefix length.
fn interface_address(text: &str) -> Result<Addr, String> {
    let address = text.split_once('/').map_or(text, |(address, _)| address);
    let ip: std::net::IpAddr =
        address.trim().parse().map_err(|_| format!("{text}: expected ADDRESS or CIDR"))?;
    Ok(ip.into())
}

impl ViewArgs {
    /// The folder and the node from which the view is computed; `None` for the tables in the kernel.
    ///
    /// # Errors
    /// If rules are given without `--manifests`.
    pub fn files(&self) -> anyhow::Result<Option<(&Path, Viewpoint)>> {
        match (&self.manifests, &self.node_name) {
            (Some(dir), Some(name)) => {
                let (addresses, rules) = (self.node_addresses.clone(), self.rules.rules());
                Ok(Some((dir, Viewpoint { name: name.clone(), addresses, rules })))
            }
            _ if self.rules.is_empty() => Ok(None),
            _ => anyhow::bail!(
                "--nodeport-addresses, --external-ip-cidrs, --service-cidrs and --service-proxy-name need \
                 --manifests: the tables in the kernel follow the flags of the agent"
            ),
        }
    }
}
