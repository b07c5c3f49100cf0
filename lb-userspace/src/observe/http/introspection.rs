//! Port 10249: `/metrics`, `/healthz`, `/proxyMode` and `/configz`, as kube-proxy has them (k/k
//! cmd/kube-proxy/app/server.go, `serveMetrics`).

use std::sync::Arc;

use axum::Router;
use axum::http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use prometheus::TextEncoder;
use serde_json::json;

use super::proxy_health::not_found;
use crate::observe::telemetry::Telemetry;

/// The answer of `/proxyMode`, which is none of iptables, ipvs and nftables.
pub const MODE: &str = "ebpf";

const TEXT: &str = "text/plain; charset=utf-8";

/// `configz` is the configuration in force.
pub fn router(telemetry: Arc<Telemetry>, configz: serde_json::Value) -> Router {
    let configz = json!({ "kubeproxy.config.k8s.io": configz }).to_string();
    Router::new()
        .route("/metrics", any(move || async move { metrics(&telemetry) }))
        .route("/proxyMode", any(|| async { plain(MODE) }))
        .route("/healthz", any(|| async { plain("ok") }))
        .route("/healthz/ping", any(|| async { plain("ok") }))
        .route("/configz", any(move || async move { (nosniff("application/json"), configz) }))
        .fallback(not_found)
}

fn metrics(telemetry: &Telemetry) -> Response {
    match TextEncoder::new().encode_to_string(&telemetry.registry().gather()) {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, nosniff(TEXT), error.to_string()).into_response(),
    }
}

fn plain(text: &'static str) -> impl IntoResponse {
    (nosniff(TEXT), text)
}

const fn nosniff(content_type: &'static str) -> [(HeaderName, &'static str); 2] {
    [(CONTENT_TYPE, content_type), (X_CONTENT_TYPE_OPTIONS, "nosniff")]
}
