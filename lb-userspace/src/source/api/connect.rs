//! Connections that do not depend on a ClusterIP that we serve ourselves.
//!
//! Where the address of the API server is a frontend of our tables (in a pod it is: the ClusterIP of
//! `default/kubernetes`), connections are made to the backends behind it, as they were last known. TLS and HTTP go on
//! speaking of the address that was configured.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use lb_common::{FrontendKey, Port, Proto};
use tokio::net::TcpStream;
use tower::{BoxError, Service};

use crate::tables::Tables;

/// A peer that says nothing is asked whether it lives after so long, and so often.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 3;

/// The way to the API server, shared by the connections and the agent's loop.
#[derive(Clone, Debug, Default)]
pub struct Route(Arc<Mutex<Ways>>);

#[derive(Debug, Default)]
struct Ways {
    /// The configured address; `None` where it is a name.
    server: Option<SocketAddr>,
    /// It as the URL has it.
    host: String,
    /// What was last known to be behind it; the first is tried first.
    backends: Vec<SocketAddr>,
}

impl Route {
    /// Looks the address of the API server up. Backends that are gone are kept while there are no others.
    pub fn learn(&self, tables: &Tables) {
        let mut ways = self.lock();
        let Some(server) = ways.server else { return };
        let found = backends(tables, server);
        let is_new = found.len() != ways.backends.len() || !found.iter().all(|b| ways.backends.contains(b));
        if !found.is_empty() && is_new {
            ways.backends = found;
        }
    }

    /// Where to connect to, in this order. The address itself comes last: somebody else may serve it.
    pub fn ways(&self) -> Vec<SocketAddr> {
        let ways = self.lock();
        ways.backends.iter().copied().chain(ways.server).collect()
    }

    /// The address is a ClusterIP or the like, as far as is known.
    pub fn is_served_by_us(&self) -> bool {
        !self.lock().backends.is_empty()
    }

    /// Address and port of the server, for metrics.
    pub(super) fn host(&self) -> String {
        self.lock().host.clone()
    }

    pub(super) fn set_server(&self, server: &Uri) {
        let address = literal(server);
        let mut ways = self.lock();
        ways.host = server.authority().map(ToString::to_string).unwrap_or_default();
        if ways.server != address {
            ways.server = address;
            ways.backends.clear();
        }
    }

    /// The backend at hand is of no use now: another one first.
    pub(super) fn rotate(&self) {
        let mut ways = self.lock();
        if !ways.backends.is_empty() {
            ways.backends.rotate_left(1);
        }
    }

    /// No connection to this one: others first. Watches find that out at the same time, and it counts once.
    fn put_last(&self, way: SocketAddr) {
        let mut ways = self.lock();
        if ways.backends.first() == Some(&way) {
            ways.backends.rotate_left(1);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ways> {
        // Nothing can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address that a URL names without a name server.
fn literal(uri: &Uri) -> Option<SocketAddr> {
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    let default = if uri.scheme_str() == Some("http") { 80 } else { 443 };
    Some(SocketAddr::new(host.parse::<IpAddr>().ok()?, uri.port_u16().unwrap_or(default)))
}

/// The backends that a new connection to a frontend may get.
fn backends(tables: &Tables, frontend: SocketAddr) -> Vec<SocketAddr> {
    let port = Port::new(frontend.port());
    let key = FrontendKey::new(frontend.ip().into(), port, Proto::Tcp.number());
    let Some(frontend) = tables.frontends.get(&key) else { return Vec::new() };
    let slots = tables.slots_of(tables.record(frontend.service).cluster).unwrap_or_default();
    let backends = slots.iter().filter_map(|slot| tables.backend_of(*slot));
    backends.map(|backend| SocketAddr::new(backend.addr.into(), backend.port.host())).collect()
}

/// Makes TCP connections by a [`Route`]. It stands below TLS.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    tcp: HttpConnector,
    route: Route,
}

impl Connector {
    /// `patience` is for one address.
    pub(super) fn new(route: Route, patience: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(patience));
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE));
        tcp.set_keepalive_retries(Some(KEEPALIVE_PROBES));
        Self { tcp, route }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    /// Tries one address after the other.
    fn call(&mut self, server: Uri) -> Self::Future {
        let mut ways = self.route.ways();
        if literal(&server).is_none() || ways.is_empty() {
            let connecting = self.tcp.call(server);
            return Box::pin(async move { Ok(connecting.await?) });
        }
        let last = ways.pop();
        let Self { mut tcp, route } = self.clone();
        Box::pin(async move {
            for way in ways {
                match tcp.call(to(way)?).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => {
                        tracing::debug!("{way}: {error}");
                        route.put_last(way);
                    }
                }
            }
            let last = last.map(to).transpose()?.unwrap_or(server);
            Ok(tcp.call(last).await?)
        })
    }
}

fn to(address: SocketAddr) -> Result<Uri, http::Error> {
    // The scheme says nothing here: the port is given.
    Uri::builder().scheme("http").authority(address.to_string()).path_and_query("/").build()
}
