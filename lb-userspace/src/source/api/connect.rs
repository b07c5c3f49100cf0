//! Connections that do not depend on a ClusterIP that we serve ourselves.
//!
//! If the address of the API server is a frontend in our tables (as in a pod: the ClusterIP of `default/kubernetes`),
//! connections go to its last known backends. TLS and HTTP still use the configured address.

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

/// The idle time of a connection before the first TCP keepalive probe, and the time between probes.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 3;

/// The route to the API server, shared by the connections and the agent's loop.
#[derive(Clone, Debug, Default)]
pub struct Route(Arc<Mutex<Ways>>);

#[derive(Debug, Default)]
struct Ways {
    /// The configured address; `None` if it is a name.
    server: Option<SocketAddr>,
    /// The server's host and port as written in the URL.
    host: String,
    /// The last known backends of `server`, in the order in which they are tried.
    backends: Vec<SocketAddr>,
}

impl Route {
    /// Looks up the backends of the API server's address. The previous backends are kept if there are none now.
    pub fn learn(&self, tables: &Tables) {
        let mut ways = self.lock();
        let Some(server) = ways.server else { return };
        let found = backends(tables, server);
        let is_new = found.len() != ways.backends.len() || !found.iter().all(|b| ways.backends.contains(b));
        if !found.is_empty() && is_new {
            ways.backends = found;
        }
    }

    /// The addresses to connect to, in this order. The configured address comes last, because another program may serve
    /// it.
    pub fn ways(&self) -> Vec<SocketAddr> {
        let ways = self.lock();
        ways.backends.iter().copied().chain(ways.server).collect()
    }

    /// Whether the configured address is a frontend of ours, as far as is known.
    pub fn is_served_by_us(&self) -> bool {
        !self.lock().backends.is_empty()
    }

    /// Host and port of the server, for metrics.
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

    /// Moves the first backend to the end, because it does not work now.
    pub(super) fn rotate(&self) {
        let mut ways = self.lock();
        if !ways.backends.is_empty() {
            ways.backends.rotate_left(1);
        }
    }

    /// Moves a backend to the end after a failed connection, unless another watch has already done so.
    fn put_last(&self, way: SocketAddr) {
        let mut ways = self.lock();
        if ways.backends.first() == Some(&way) {
            ways.backends.rotate_left(1);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ways> {
        // Nothing can panic in the middle of a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address in a URL; `None` if its host is a name.
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

/// Makes TCP connections along a [`Route`], below TLS.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    tcp: HttpConnector,
    route: Route,
}

impl Connector {
    /// `patience` is the limit for each address.
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

    /// Tries the addresses one after the other.
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
    // The scheme has no meaning here, because the port is given.
    Uri::builder().scheme("http").authority(address.to_string()).path_and_query("/").build()
}
