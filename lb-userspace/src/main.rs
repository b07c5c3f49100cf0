//! `lb`: the command line.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use lb_common::Addr;
use lb_common::capacity;
use lb_userspace::config::{self, Flags};
use lb_userspace::dataplane::attach::Mode;
use lb_userspace::dataplane::load::Constants;
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::dataplane::pins::Pins;
use lb_userspace::dataplane::shape::Sizes;
use lb_userspace::leftovers::Cleanup;
use lb_userspace::leftovers::host::Host;
use lb_userspace::model::{ExternalIpCidrs, NodePortAddresses, Notice, ServiceCidrs, Settings};
use lb_userspace::netdev::{Overrides, Role};
use lb_userspace::tables::Tables;
use lb_userspace::{
    agent, api, capabilities, check, dataplane, flows, heap, host_sockets, links, status, surfaces, view,
};

/// Kubernetes Services by eBPF, in place of kube-proxy.
#[derive(Parser)]
#[command(name = "lb", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Keep the node's tables true; runs until SIGTERM, and leaves the data path working
    Agent(Box<AgentArgs>),
    /// Service ports: frontends, endpoints, policies
    Services(ViewArgs),
    /// Backends: one endpoint of one service port each
    Backends(ViewArgs),
    /// What is remembered of connections
    Flows {
        #[command(flatten)]
        pins: PinArgs,
        /// Also connections straight to a backend's address
        #[arg(long)]
        direct: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Agent, links, tables and counters of this node
    Status {
        #[command(flatten)]
        pins: PinArgs,
        #[command(flatten)]
        roles: RoleArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Can this node run the agent, and what is in the way; changes nothing. Exit status 1 if anything is
    Check {
        #[command(flatten)]
        pins: PinArgs,
        #[command(flatten)]
        roles: RoleArgs,
        #[command(flatten)]
        api: ApiArgs,
        /// KubeProxyConfiguration (v1alpha1) that the agent will be given
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        sizes: SizeArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Detach from every link and remove the tables; connections through them end
    Cleanup(CleanupArgs),
}

#[derive(Args)]
struct AgentArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Name of this node's Node object: says which endpoints are local [default: that of the configuration, else the
    /// host name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME", visible_alias = "hostname-override")]
    node_name: Option<String>,
    #[command(flatten)]
    kube_proxy: KubeProxyArgs,
    /// Service ports, and backends, that metrics show the traffic of
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    metrics_limit: usize,
    #[command(flatten)]
    pins: PinArgs,
    /// How programs hang on links
    #[arg(long, value_enum, default_value_t)]
    attach: Mode,
    #[command(flatten)]
    roles: RoleArgs,
    #[command(flatten)]
    rules: RuleArgs,
    #[command(flatten)]
    host_sockets: host_sockets::Config,
    /// Pass TCP segments of unknown connections on to the kernel instead of answering with a RST: while
    /// connections of kube-proxy drain
    #[arg(long)]
    adopt: bool,
    #[command(flatten)]
    sizes: SizeArgs,
}

#[derive(Args)]
struct SizeArgs {
    /// Connections that are remembered at once beside those that begin or end; may change from start to start
    #[arg(long, value_name = "N", default_value_t = capacity::FLOWS as u32 / 2,
          value_parser = clap::value_parser!(u32).range(1..=MOST_FLOWS))]
    max_flows: u32,
}

impl SizeArgs {
    fn sizes(&self) -> Sizes {
        // Two entries a flow.
        Sizes { flows: self.max_flows * 2, ..Sizes::default() }
    }
}

/// Entries of a map are counted in 32 bits, and half of them already are some 200 GB.
const MOST_FLOWS: i64 = 1 << 30;

/// Without any of them: the API server, as a pod of its cluster.
#[derive(Args)]
struct SourceArgs {
    /// Folder of Service, EndpointSlice and Node objects, as `kubectl get -o yaml` prints them; followed. No API
    /// server is asked
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "api_server"])]
    manifests: Option<PathBuf>,
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Args)]
struct ApiArgs {
    /// Address and credentials of the API server [default: the service account of the pod]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Address of the API server, over that of kubeconfig or environment
    #[arg(long, value_name = "URL", env = "LB_API_SERVER")]
    api_server: Option<String>,
}

impl ApiArgs {
    fn config(self) -> api::Config {
        api::Config { kubeconfig: self.kubeconfig, server: self.api_server, ..api::Config::default() }
    }
}

impl SourceArgs {
    /// `kubeconfig` is that of file or flag.
    fn source(self, kubeconfig: Option<PathBuf>) -> agent::Source {
        match self.manifests {
            Some(dir) => agent::Source::Manifests(dir),
            None => agent::Source::Api(api::Config { kubeconfig, ..self.api.config() }),
        }
    }
}

/// Configuration and flags of kube-proxy; a flag wins over the file.
#[derive(Args)]
#[command(next_help_heading = "As kube-proxy has it (docs/config.md)")]
struct KubeProxyArgs {
    /// KubeProxyConfiguration (v1alpha1), as kubeadm writes it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write the configuration in force to a file and exit
    #[arg(long, value_name = "FILE")]
    write_config_to: Option<PathBuf>,
    /// Its family is that of the default addresses of the two servers below
    #[arg(long, value_name = "ADDRESS")]
    bind_address: Option<String>,
    /// Where /healthz and /livez are; empty: nowhere [default: 0.0.0.0:10256]
    #[arg(long, value_name = "ADDRESS:PORT")]
    healthz_bind_address: Option<String>,
    /// Where /metrics is; empty: nowhere [default: 127.0.0.1:10249]
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_bind_address: Option<String>,
    /// End when one of these ports cannot be had, instead of trying again
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    bind_address_hard_fail: Option<bool>,
    /// How unlikely the kernel is to end this process when memory is short: -1000 to 1000
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true)]
    oom_score_adj: Option<i32>,
}

#[derive(Args)]
struct CleanupArgs {
    #[command(flatten)]
    pins: PinArgs,
    /// Remove what kube-proxy left instead: its rules in iptables (legacy and nft) and nftables, kube-ipvs0,
    /// ipsets, virtual servers. Ours stays
    #[arg(long)]
    kube_proxy: bool,
    /// Print the commands that would do it, and do nothing
    #[arg(long, requires = "kube_proxy")]
    dry_run: bool,
    /// Also while kube-proxy runs
    #[arg(long, requires = "kube_proxy")]
    force: bool,
    /// Where the host's file system is mounted, for its iptables-legacy and ipvsadm
    #[arg(long, value_name = "DIR", default_value = "/", requires = "kube_proxy")]
    host_root: PathBuf,
}

/// What holds for all Services.
#[derive(Args, PartialEq)]
struct RuleArgs {
    /// Node addresses that NodePorts answer on: all, primary, localhost and prefixes, with commas between them
    /// [default: all]
    #[arg(long, value_name = "LIST")]
    nodeport_addresses: Option<NodePortAddresses>,
    /// Prefixes that externalIPs may lie in, with commas between them; or any, or none [default: any]
    #[arg(long, value_name = "CIDR,...")]
    external_ip_cidrs: Option<ExternalIpCidrs>,
    /// Where ClusterIPs are, beside ServiceCIDR objects, with commas between them: what goes to an address that no Service
    /// has is dropped
    #[arg(long, value_name = "CIDR,...")]
    service_cidrs: Option<ServiceCidrs>,
    /// Serve the Services that have this label service.kubernetes.io/service-proxy-name, instead of those without
    #[arg(long, value_name = "NAME")]
    service_proxy_name: Option<String>,
}

impl RuleArgs {
    fn settings(&self) -> Settings {
        Settings {
            service_proxy_name: self.service_proxy_name.clone(),
            external_ip_cidrs: self.external_ip_cidrs.clone().unwrap_or_default(),
            service_cidrs: self.service_cidrs.clone().unwrap_or_default(),
            node_port_addresses: self.nodeport_addresses.clone().unwrap_or_default(),
        }
    }

    fn is_empty(&self) -> bool {
        let Self { nodeport_addresses, external_ip_cidrs, service_cidrs, service_proxy_name } = self;
        nodeport_addresses.is_none()
            && external_ip_cidrs.is_none()
            && service_cidrs.is_none()
            && service_proxy_name.is_none()
    }
}

#[derive(Args)]
struct PinArgs {
    /// Where maps and links are pinned; a bpffs is mounted where there is none
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/lb")]
    pin_dir: PathBuf,
}

#[derive(Args)]
struct RoleArgs {
    /// Give a link a role: pod, uplink, tunnel or none
    #[arg(long = "link-role", value_name = "LINK=ROLE", value_parser = link_role)]
    link_roles: Vec<(String, Role)>,
}

impl RoleArgs {
    fn overrides(&self) -> Overrides {
        self.link_roles.iter().cloned().collect()
    }
}

fn link_role(text: &str) -> Result<(String, Role), String> {
    let (link, role) = text.split_once('=').ok_or_else(|| format!("{text}: LINK=ROLE is expected"))?;
    Ok((link.to_owned(), role.parse()?))
}

#[derive(Args)]
struct ViewArgs {
    #[command(flatten)]
    pins: PinArgs,
    /// Compute the view from a folder of manifests instead: no root, no kernel
    #[arg(long, value_name = "DIR", requires = "node_name")]
    manifests: Option<PathBuf>,
    /// With --manifests: the node whose view it is
    #[arg(long, value_name = "NAME", requires = "manifests")]
    node_name: Option<String>,
    /// With --manifests: the addresses of the node's interfaces, as `ip address` prints them [default: the InternalIPs
    /// of the Node object]
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',', value_parser = interface_address, requires = "manifests")]
    node_addresses: Option<Vec<Addr>>,
    #[command(flatten)]
    rules: RuleArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// An address, with or without the length of its prefix.
fn interface_address(text: &str) -> Result<Addr, String> {
    let address = text.split_once('/').map_or(text, |(address, _)| address);
    let ip: std::net::IpAddr =
        address.trim().parse().map_err(|_| format!("{text}: ADDRESS or CIDR is expected"))?;
    Ok(ip.into())
}

impl ViewArgs {
    /// The folder and the node to compute a view from, instead of the tables in the kernel.
    fn files(&self) -> anyhow::Result<Option<(&Path, view::Node)>> {
        match (&self.manifests, &self.node_name) {
            (Some(dir), Some(name)) => {
                let (addresses, settings) = (self.node_addresses.clone(), self.rules.settings());
                Ok(Some((dir, view::Node { name: name.clone(), addresses, settings })))
            }
            _ if self.rules.is_empty() => Ok(None),
            _ => anyhow::bail!(
                "--nodeport-addresses, --external-ip-cidrs, --service-cidrs and --service-proxy-name belong to \
                 --manifests: the tables in the kernel follow what the agent was told"
            ),
        }
    }
}

#[derive(Args)]
struct OutputArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
}

fn main() -> ExitCode {
    heap::set_up();
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        // `lb services | head` is not an error.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lb: {error:#}{}", advice(&error));
            ExitCode::FAILURE
        }
    }
}

/// Where the kernel refused something: what right this process lacks.
fn advice(error: &anyhow::Error) -> String {
    let is_refusal = |cause: &(dyn std::error::Error + 'static)| {
        let code = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        matches!(code, Some(libc::EPERM | libc::EACCES))
    };
    if !error.chain().any(is_refusal) {
        return String::new();
    }
    // SAFETY: a plain call.
    if unsafe { libc::geteuid() } != 0 {
        return ": run as root".to_owned();
    }
    let missing = capabilities::missing().unwrap_or_default();
    missing.iter().map(|lacks| format!("; {} is missing ({})", lacks.name, lacks.purpose)).collect()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Agent(args) => run_agent(*args),
        Command::Services(args) => {
            let services = match args.files()? {
                Some((dir, node)) => {
                    let model = view::model_from_manifests(dir, node)?;
                    tell(model.notices());
                    view::services_of_model(&model)
                }
                None => view::services(&pinned(&args.pins)?),
            };
            print(args.output.output, &services, || view::service_table(&services))
        }
        Command::Backends(args) => {
            let tables = match args.files()? {
                Some((dir, node)) => {
                    let (tables, notices) = view::tables_from_manifests(dir, node)?;
                    tell(&notices);
                    tables
                }
                None => pinned(&args.pins)?,
            };
            let backends = view::backends(&tables);
            print(args.output.output, &backends, || view::backend_table(&backends))
        }
        Command::Flows { pins, direct, output } => {
            let maps = Maps::open(&Pins::new(&pins.pin_dir), false)?;
            let flows = flows::read(&maps, direct)?;
            print(output.output, &flows, || flows::table(&flows))
        }
        Command::Status { pins, roles, output } => {
            let pins = Pins::new(&pins.pin_dir);
            let status = runtime()?.block_on(status::read(&pins, &roles.overrides()))?;
            print(output.output, &status, || status::text(&status))
        }
        Command::Check { pins, roles, api, config, sizes, output } => {
            let options = check::Options {
                pins: Pins::new(&pins.pin_dir),
                roles: roles.overrides(),
                flags: Flags { config, kubeconfig: api.kubeconfig.clone(), ..Flags::default() },
                api: api.config(),
                sizes: sizes.sizes(),
            };
            let report = runtime()?.block_on(check::run(&options));
            print(output.output, &report, || check::text(&report))?;
            // The report has said what there is to say.
            if report.ok { Ok(()) } else { std::process::exit(1) }
        }
        Command::Cleanup(args) => {
            let done = if args.kube_proxy {
                let CleanupArgs { dry_run, force, host_root, .. } = args;
                runtime()?.block_on(Cleanup { dry_run, force, host: Host { root: host_root } }.run())?
            } else {
                runtime()?.block_on(links::cleanup(args.pins.pin_dir))?
            };
            Ok(writeln!(std::io::stdout(), "{done}")?)
        }
    }
}

fn run_agent(args: AgentArgs) -> anyhow::Result<()> {
    // The first warns of every attribute that is longer than it knows, once a link; the others of what `api` says
    // in its own words.
    let filter = tracing_subscriber::EnvFilter::try_from_env("LB_LOG").unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new("info,netlink_packet_route=error,kube_client=off,kube_runtime=off")
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let settings = config::Settings::new(&Flags {
        config: args.kube_proxy.config,
        kubeconfig: args.source.api.kubeconfig.clone(),
        hostname_override: args.node_name,
        bind_address: args.kube_proxy.bind_address,
        healthz_bind_address: args.kube_proxy.healthz_bind_address,
        metrics_bind_address: args.kube_proxy.metrics_bind_address,
        bind_address_hard_fail: args.kube_proxy.bind_address_hard_fail,
        nodeport_addresses: args.rules.nodeport_addresses.as_ref().map(ToString::to_string),
        oom_score_adj: args.kube_proxy.oom_score_adj,
    })?;
    for remark in &settings.remarks {
        if remark.is_warning {
            tracing::warn!("{remark}");
        } else {
            tracing::info!("{remark}");
        }
    }
    if let Some(path) = args.kube_proxy.write_config_to {
        return settings.write(&path);
    }
    settings.adjust_oom_score();
    let node_port_addresses = settings.node_port_addresses()?;
    runtime()?.block_on(agent::run(agent::Config {
        roles: args.roles.overrides(),
        source: args.source.source(settings.kubeconfig),
        node_name: node_name(settings.hostname_override)?,
        settings: Settings { node_port_addresses, ..args.rules.settings() },
        pin_dir: args.pins.pin_dir,
        attach: args.attach,
        constants: Constants { adopt: args.adopt, ..Constants::default() },
        surfaces: surfaces::Config {
            healthz: settings.healthz,
            metrics: settings.metrics,
            hard_fail: settings.hard_fail,
            node_port_addresses: settings.node_port_addresses,
            configz: serde_json::to_value(&settings.effective)?,
        },
        health_timeout: settings.health_timeout,
        metrics_limit: args.metrics_limit,
        sizes: args.sizes.sizes(),
        host_sockets: args.host_sockets,
    }))
}

/// As the kubelet names it: lower case (k/k pkg/util/node, GetHostname).
fn node_name(given: Option<String>) -> anyhow::Result<String> {
    let name = match given.filter(|name| !name.is_empty()) {
        Some(name) => name,
        None => std::fs::read_to_string("/proc/sys/kernel/hostname").context("read the host name")?,
    };
    Ok(name.trim().to_lowercase())
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")
}

/// The tables in the kernel.
fn pinned(pins: &PinArgs) -> anyhow::Result<Tables> {
    dataplane::read(&Maps::open(&Pins::new(&pins.pin_dir), false)?)
}

fn tell<'a>(notices: impl IntoIterator<Item = &'a Notice>) {
    for notice in notices {
        eprintln!("lb: {}: {notice}", notice.severity);
    }
}

fn print<T: serde::Serialize>(
    output: Output,
    value: &T,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match output {
        Output::Table => out.write_all(text().as_bytes())?,
        Output::Json => {
            let text = serde_json::to_string_pretty(value)?;
            writeln!(out, "{text}")?;
        }
    }
    Ok(())
}
