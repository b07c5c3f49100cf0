//! What carries requests: TLS, credentials, HTTP/2.

use anyhow::Context;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder};

use super::access::Times;
use super::connect::Connector;

/// What a stream, and all of a connection, may send before it was read: what is waited for does not fill memory.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;

pub(super) type Transport = BoxCloneSyncService<Request<Body>, Response<Incoming>, BoxError>;

/// All watches share one connection, as those of client-go do, and a server that hangs is found out on it: it answers
/// no PING. (A server without HTTP/2 gets a connection for each watch, and is found out by kube's watchers, some five
/// minutes later.)
///
/// Blocks: files are read, and a credential plugin (`exec`) is run to its end. Later kube runs it on a thread of its
/// own.
///
/// # Errors
/// Certificates or credentials that cannot be had.
pub(super) fn build(config: &kube::Config, connector: Connector, times: &Times) -> anyhow::Result<Transport> {
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(times.ping)
        .http2_keep_alive_timeout(times.pong)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .build(https(config, connector).context("certificates for the API server")?);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().context("credentials for the API server")?)
        .layer(config.extra_headers_layer().context("headers for the API server")?)
        .map_err(BoxError::from)
        .service(http);
    Ok(BoxCloneSyncService::new(service))
}

/// As kube's own, which speaks HTTP/1.1 only.
fn https(config: &kube::Config, connector: Connector) -> anyhow::Result<HttpsConnector<Connector>> {
    let mut builder =
        HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into().with_context(|| format!("tls-server-name {name}"))?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    Ok(builder.enable_http1().enable_http2().wrap_connector(connector))
}
