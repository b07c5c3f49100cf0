//! The transport of requests: TLS, credentials, HTTP/2.

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

/// Bytes that the server may send on a stream, and on a connection, before they are read. This bounds the memory of
/// data that waits.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;

pub(super) type Transport = BoxCloneSyncService<Request<Body>, Response<Incoming>, BoxError>;

/// Builds the transport. All watches share one connection, as those of client-go do, and PINGs on it detect a server
/// that hangs. (A server without HTTP/2 gets a connection for each watch, and kube's watchers detect the hang some five
/// minutes later.)
///
/// This function blocks: it reads files, and runs a credential plugin (`exec`) to its end. Later, kube runs the plugin
/// on a thread of its own.
///
/// # Errors
/// If certificates or credentials cannot be obtained.
pub(super) fn build(config: &kube::Config, connector: Connector, times: &Times) -> anyhow::Result<Transport> {
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(times.ping)
        .http2_keep_alive_timeout(times.pong)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .build(https(config, connector).context("cannot set up TLS for the API server")?);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().context("cannot obtain the credentials for the API server")?)
        .layer(config.extra_headers_layer().context("cannot set the headers for the API server")?)
        .map_err(BoxError::from)
        .service(http);
    Ok(BoxCloneSyncService::new(service))
}

/// Like kube's own connector, which speaks only HTTP/1.1.
fn https(config: &kube::Config, connector: Connector) -> anyhow::Result<HttpsConnector<Connector>> {
    let mut builder =
        HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name =
            name.clone().try_into().with_context(|| format!("tls-server-name {name} is not a valid name"))?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    Ok(builder.enable_http1().enable_http2().wrap_connector(connector))
}
