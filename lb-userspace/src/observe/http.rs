//! The HTTP servers of the agent, like those of kube-proxy: health on 10256, metrics on 10249, and a health check for
//! each Service that has a `healthCheckNodePort`.
//!
//! The servers run on a thread of their own, so that they answer, truthfully, even while the loop is busy or hangs.
//! Nothing here can stop the packet path.

mod introspection;
mod listen;
mod proxy_health;
mod service_health;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use anyhow::Context;
use lb_common::Addr;
use tokio::sync::{mpsc, watch};
use tracing::error;

pub use introspection::{MODE, router as introspection_router};
pub use listen::bind;
pub use proxy_health::router as health_router;
pub use service_health::{HealthChecks, ServiceHealth, addresses as health_check_addresses};

use super::events::Recorder;
use super::status_socket;
use super::telemetry::Telemetry;
use crate::model::HealthCheck;
use crate::objects::name::{Family, ObjectName};

/// The addresses to listen on, and other options. A server whose address is `None` is switched off.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    pub healthz: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    /// Whether a port that cannot be opened ends the agent (kube-proxy's `bindAddressHardFail`). Otherwise the port is
    /// tried again.
    pub hard_fail: bool,
    /// kube-proxy's `nodePortAddresses`: the addresses on which health checks of Services listen.
    pub node_port_addresses: Vec<String>,
    /// The configuration in force, for `/configz`.
    pub configz: serde_json::Value,
}

/// The servers. They end when this value is dropped.
pub struct Surfaces {
    health_checks: watch::Sender<HealthChecks>,
}

impl Surfaces {
    /// Starts the servers. The receiver gets the reason why the agent must end, with `hard_fail` only.
    ///
    /// # Errors
    /// If the thread or its runtime cannot be started. Ports that cannot be opened are only logged.
    pub fn start(
        options: ServerOptions,
        telemetry: Arc<Telemetry>,
        recorder: Option<Recorder>,
        status: Option<(UnixListener, status_socket::Identity)>,
    ) -> anyhow::Result<(Self, mpsc::Receiver<anyhow::Error>)> {
        let (health_checks, changes) = watch::channel(HealthChecks::default());
        let (fatal, failed) = mpsc::channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        if let Some((listener, identity)) = status {
            let telemetry = Arc::clone(&telemetry);
            runtime.spawn(async move {
                if let Err(error) = status_socket::serve(listener, identity, telemetry).await {
                    error!("`lb status` is no longer answered: {error:#}");
                }
            });
        }
        std::thread::Builder::new()
            .name("surfaces".to_owned())
            .spawn(move || runtime.block_on(run(options, telemetry, recorder, changes, fatal)))
            .context("cannot start a thread")?;
        Ok((Self { health_checks }, failed))
    }

    /// Does nothing if nothing changed.
    pub fn set_health_checks(
        &self,
        checks: &BTreeMap<(ObjectName, Family), HealthCheck>,
        primary: Vec<Addr>,
    ) {
        self.health_checks.send_if_modified(|known| {
            let is_new = known.checks != *checks || known.primary != primary;
            if is_new {
                *known = HealthChecks { checks: checks.clone(), primary };
            }
            is_new
        });
    }
}

/// Runs until the agent's loop drops its end.
async fn run(
    options: ServerOptions,
    telemetry: Arc<Telemetry>,
    recorder: Option<Recorder>,
    mut changes: watch::Receiver<HealthChecks>,
    fatal: mpsc::Sender<anyhow::Error>,
) {
    // The loop waits at the other end, even if nothing is ever sent.
    let _open = fatal.clone();
    let fatal = options.hard_fail.then_some(fatal);
    if let Some(address) = options.healthz {
        let server = listen::Server {
            what: "the health server",
            flag: "--healthz-bind-address",
            address,
            fatal: fatal.clone(),
        };
        tokio::spawn(server.run(proxy_health::router(Arc::clone(&telemetry))));
    }
    if let Some(address) = options.metrics {
        let server = listen::Server {
            what: "the metrics server",
            flag: "--metrics-bind-address",
            address,
            fatal: fatal.clone(),
        };
        tokio::spawn(server.run(introspection::router(Arc::clone(&telemetry), options.configz)));
    }
    let mut health = ServiceHealth::new(options.node_port_addresses, telemetry, recorder);
    loop {
        let wanted = changes.borrow_and_update().clone();
        let is_complete = health.follow(&wanted).await;
        let changed = changes.changed();
        if is_complete {
            if changed.await.is_err() {
                return;
            }
        } else if let Ok(Err(_)) = tokio::time::timeout(listen::RETRY_AFTER, changed).await {
            return;
        }
    }
}
