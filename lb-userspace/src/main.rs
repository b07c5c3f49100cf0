//! `lb`: does what was typed.

mod command_line;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use command_line::{AgentArgs, CleanupArgs, Cli, Command, Output, PinArgs};
use lb_userspace::agent::{self, heap};
use lb_userspace::config::{self, Flags};
use lb_userspace::dataplane::load::Constants;
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::dataplane::pins::Pins;
use lb_userspace::hooks::links;
use lb_userspace::leftovers::Cleanup;
use lb_userspace::leftovers::host::Host;
use lb_userspace::model::Rules;
use lb_userspace::node::capabilities;
use lb_userspace::objects::notice::Notice;
use lb_userspace::observe::http::ServerOptions;
use lb_userspace::tables::Tables;
use lb_userspace::{check, dataplane, flows, status, view};

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
                api: api.access(),
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
        rules: Rules { node_port_addresses, ..args.rules.rules() },
        pin_dir: args.pins.pin_dir,
        attach: args.attach,
        constants: Constants { adopt: args.adopt, ..Constants::default() },
        surfaces: ServerOptions {
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
