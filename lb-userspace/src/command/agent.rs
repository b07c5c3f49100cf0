//! `lb agent`.

use std::io::IsTerminal;

use anyhow::Context;

use super::args::AgentArgs;
use crate::agent;
use crate::config::{self, Flags};
use crate::dataplane::load::Constants;
use crate::model::Rules;
use crate::observe::http::ServerOptions;

/// Runs the agent, or writes the configuration that the agent would use.
///
/// # Errors
/// If the configuration cannot be parsed or written, and the errors of [`agent::run`].
pub async fn run(args: AgentArgs) -> anyhow::Result<()> {
    start_log();
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
    let config = agent::Config {
        roles: args.roles.overrides(),
        source: args.source.source(settings.kubeconfig),
        node_name: node_name(settings.hostname_override)?,
        rules: Rules { node_port_addresses, ..args.rules.rules() },
        pin_dir: args.pins.pin_dir,
        attach: args.attach,
        constants: Constants { adopt: args.adopt, source_check: args.source_check, ..Constants::default() },
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
    };
    agent::run(config).await
}

fn start_log() {
    // netlink_packet_route warns of every attribute that is longer than expected, once for each link. The kube crates
    // log what `api` reports in its own words.
    let filter = tracing_subscriber::EnvFilter::try_from_env("LB_LOG").unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new("info,netlink_packet_route=error,kube_client=off,kube_runtime=off")
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

/// The name of the node, in lower case as the kubelet has it (k/k pkg/util/node, GetHostname).
fn node_name(given: Option<String>) -> anyhow::Result<String> {
    let name = match given.filter(|name| !name.is_empty()) {
        Some(name) => name,
        None => std::fs::read_to_string("/proc/sys/kernel/hostname").context("read the host name")?,
    };
    Ok(name.trim().to_lowercase())
}
