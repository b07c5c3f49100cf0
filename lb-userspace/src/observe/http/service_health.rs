//! Health checks of Services of type LoadBalancer with externalTrafficPolicy Local: whether this node has endpoints of
//! the Service. The answers have exactly the form of those of k/k pkg/proxy/healthcheck/service_health.go.
//!
//! Terminating endpoints do not count although they still serve, so that a load balancer turns away in time (KEP-1669).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use lb_common::Addr;
use tokio::task::AbortHandle;
use tracing::{error, info};

use super::listen;
use crate::model::HealthCheck;
use crate::node::netdev::Netdev;
use crate::objects::name::{Family, ObjectName};
use crate::observe::events::Recorder;
use crate::observe::moment::Moment;
use crate::observe::telemetry::Telemetry;

/// The reason of the Event for a port that cannot be opened.
const FAILED: &str = "FailedToStartServiceHealthcheck";

type Key = (ObjectName, Family);

/// What the loop tells the health checks of Services.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HealthChecks {
    pub checks: BTreeMap<(ObjectName, Family), HealthCheck>,
    /// Primary addresses of the agent's own Node, for `nodePortAddresses: [primary]`.
    pub primary: Vec<Addr>,
}

/// The servers of all Services.
pub struct ServiceHealth {
    node_port_addresses: Vec<String>,
    recorder: Option<Recorder>,
    answers: Answers,
    servers: BTreeMap<Key, Server>,
    /// Errors of ports that could not be opened, so that each error is reported once.
    said: BTreeMap<Key, String>,
}

/// The state that the handlers read.
#[derive(Clone)]
struct Answers {
    telemetry: Arc<Telemetry>,
    /// The number of local endpoints of each Service.
    local_endpoints: Arc<Mutex<BTreeMap<Key, usize>>>,
}

struct Server {
    port: u16,
    tasks: Vec<AbortHandle>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl ServiceHealth {
    pub fn new(
        node_port_addresses: Vec<String>,
        telemetry: Arc<Telemetry>,
        recorder: Option<Recorder>,
    ) -> Self {
        let answers = Answers { telemetry, local_endpoints: Arc::default() };
        Self { node_port_addresses, recorder, answers, servers: BTreeMap::new(), said: BTreeMap::new() }
    }

    /// Opens and closes ports. Returns `false` if a port could not be opened. Must be called in a tokio runtime.
    pub async fn follow(&mut self, wanted: &HealthChecks) -> bool {
        let checks = &wanted.checks;
        self.servers
            .retain(|key, server| checks.get(key).is_some_and(|check| check.port.host() == server.port));
        self.said.retain(|key, _| checks.contains_key(key));
        let counts = checks.iter().map(|(key, check)| (key.clone(), check.local_endpoints));
        *self.answers.lock() = counts.collect();
        let new: Vec<&Key> = checks.keys().filter(|key| !self.servers.contains_key(*key)).collect();
        if new.is_empty() {
            return true;
        }
        let local = local_addresses().await.unwrap_or_else(|failed| {
            error!("{failed:#}: health checks listen on all addresses");
            Vec::new()
        });
        let mut is_complete = true;
        for key in new {
            let port = checks[key].port.host();
            let places = addresses(key.1, &self.node_port_addresses, &wanted.primary, &local);
            match self.open(key, port, &places) {
                Ok(server) => {
                    info!(service = %key.0, family = %key.1, port, "health check opened");
                    self.said.remove(key);
                    self.servers.insert(key.clone(), server);
                }
                Err(failed) => {
                    is_complete = false;
                    self.say(key, format!("{failed:#}"));
                }
            }
        }
        is_complete
    }

    /// Opens the port on all of the addresses, or on none.
    fn open(&self, key: &Key, port: u16, places: &[IpAddr]) -> anyhow::Result<Server> {
        let mut server = Server { port, tasks: Vec::new() };
        for place in places {
            let address = SocketAddr::new(*place, port);
            let listener = match listen::bind_one_family(address) {
                Ok(listener) => listener,
                Err(error) => {
                    bail!("cannot open the health check on {address}: {}", listen::explain(address, &error))
                }
            };
            let (answers, key) = (self.answers.clone(), key.clone());
            let router = Router::new().fallback(move || async move { answers.answer(&key) });
            server
                .tasks
                .push(tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle());
        }
        Ok(server)
    }

    fn say(&mut self, key: &Key, text: String) {
        if self.said.get(key) == Some(&text) {
            return;
        }
        error!("Service {}: {text}", key.0);
        if let Some(recorder) = &self.recorder {
            recorder.report(&key.0, FAILED, &text);
        }
        self.said.insert(key.clone(), text);
    }
}

impl Answers {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, usize>> {
        self.local_endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Path and method do not matter.
    fn answer(&self, key: &Key) -> Response {
        let Some(count) = self.lock().get(key).copied() else {
            // The connection outlived its Service.
            return StatusCode::OK.into_response();
        };
        let now = Moment::now();
        self.telemetry.look_at_links(now);
        let is_healthy = self.telemetry.health(|health| health.is_healthy(now));
        let code = if count != 0 && is_healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let headers = [
            (header::CONTENT_TYPE, "application/json".to_owned()),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
            (header::HeaderName::from_static("x-load-balancing-endpoint-weight"), count.to_string()),
        ];
        let ObjectName { namespace, name } = &key.0;
        // Names are DNS labels, in which nothing must be escaped.
        let body = format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\
             \t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {is_healthy}\n}}"
        );
        (code, headers, body).into_response()
    }
}

/// The addresses on which the health check of a Service listens: k/k pkg/proxy/util/nodeport_addresses.go. A family
/// without a prefix in the list, or with the whole range, means all addresses; otherwise every local address that a
/// prefix covers, including loopback.
pub fn addresses(family: Family, given: &[String], primary: &[Addr], local: &[IpAddr]) -> Vec<IpAddr> {
    let all = match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let of_family = |address: &IpAddr| address.is_ipv4() == all.is_ipv4();
    let single = |address: IpAddr| IpNet::from(address);
    let prefixes = given.iter().flat_map(|word| match word.as_str() {
        "all" => vec![IpNet::from(all)],
        "primary" => primary.iter().map(|address| single((*address).into())).collect(),
        "localhost" => vec![single(Ipv4Addr::LOCALHOST.into()), single(Ipv6Addr::LOCALHOST.into())],
        prefix => prefix.parse().into_iter().collect(),
    });
    let prefixes: Vec<IpNet> = prefixes.filter(|prefix| of_family(&prefix.addr())).collect();
    if prefixes.is_empty()
        || prefixes.iter().any(|prefix| prefix.prefix_len() == 0 || prefix.addr() == all)
        || local.is_empty()
    {
        return vec![all];
    }
    let covered = |address: &&IpAddr| prefixes.iter().any(|prefix| prefix.contains(*address));
    local.iter().filter(covered).copied().collect::<BTreeSet<_>>().into_iter().collect()
}

async fn local_addresses() -> anyhow::Result<Vec<IpAddr>> {
    let (netdev, _) = Netdev::connect()?;
    netdev.addresses(None).await.context("cannot list the addresses of this node")
}
