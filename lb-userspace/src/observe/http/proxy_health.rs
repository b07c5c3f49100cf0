//! `/healthz` and `/livez` (KEP-3836). The answers have exactly the form of those of k/k
//! pkg/proxy/healthcheck/proxy_health.go.
//!
//! `/livez` says whether a restart might help, `/healthz` whether load balancers should send traffic to this node.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use crate::observe::health::Eligibility;
use crate::observe::moment::Moment;
use crate::observe::telemetry::Telemetry;

/// Go's zero time, for what never happened.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The fields are in the same order as in Go.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProxyHealth {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, ProxierHealth>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProxierHealth {
    last_updated: String,
    healthy: bool,
}

/// Any method is accepted, as by Go's mux.
pub fn router(telemetry: Arc<Telemetry>) -> Router {
    Router::new()
        .route("/healthz", any(healthz))
        .route("/livez", any(livez))
        .fallback(not_found)
        .with_state(telemetry)
}

/// The answer of Go's `http.NotFound`.
pub(super) async fn not_found() -> impl IntoResponse {
    let headers =
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (StatusCode::NOT_FOUND, headers, "404 page not found\n")
}

async fn healthz(State(telemetry): State<Arc<Telemetry>>) -> Response {
    let now = Moment::now();
    telemetry.look_at_links(now);
    let (is_eligible, is_healthy) = telemetry.health(|health| {
        (health.eligibility() == Eligibility::Eligible, health.is_healthy(now) && !health.is_blank())
    });
    let response = answer(&telemetry, now, is_healthy, Some(is_eligible));
    telemetry.answered_healthz(response.status().as_u16());
    response
}

async fn livez(State(telemetry): State<Arc<Telemetry>>) -> Response {
    let now = Moment::now();
    telemetry.look_at_links(now);
    let is_healthy = telemetry.health(|health| health.is_healthy(now));
    let response = answer(&telemetry, now, is_healthy, None);
    telemetry.answered_livez(response.status().as_u16());
    response
}

fn answer(telemetry: &Telemetry, now: Moment, healthy: bool, node_eligible: Option<bool>) -> Response {
    let is_fine = healthy && node_eligible != Some(false);
    let updated = telemetry.health(|health| health.updated()).map(|moment| text(moment.wall));
    let status = updated.iter().flat_map(|updated| {
        ["IPv4", "IPv6"].map(|family| (family, ProxierHealth { last_updated: updated.clone(), healthy }))
    });
    let health = ProxyHealth {
        status: status.collect(),
        // The current time if all is well, for older readers.
        last_updated: match updated {
            _ if is_fine => text(now.wall),
            Some(updated) => updated,
            None => NEVER.to_owned(),
        },
        current_time: text(now.wall),
        node_eligible,
        healthy,
    };
    let body = serde_json::to_string(&health).expect("strings and booleans can be serialized");
    let code = if is_fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (code, headers, body).into_response()
}

/// RFC 3339 with as many digits as needed, as in Go's JSON.
fn text(time: Timestamp) -> String {
    time.to_string()
}
