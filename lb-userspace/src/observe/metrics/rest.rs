//! The metrics of client-go about requests to the API server: k8s.io/component-base metrics/prometheus/restclient.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, Registry};

use super::registry::{counter_vec, histogram_vec};
use crate::source::api::CountRequests;

/// Clones count into the same metrics.
#[derive(Clone, Debug)]
pub struct RestClient {
    requests: IntCounterVec,
    duration: HistogramVec,
}

impl RestClient {
    pub(crate) fn new(registry: &Registry) -> Self {
        let buckets = vec![0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
        Self {
            requests: counter_vec(
                registry,
                "rest_client_requests_total",
                "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.",
                &["code", "method", "host"],
            ),
            duration: histogram_vec(
                registry,
                "rest_client_request_duration_seconds",
                "[ALPHA] Request latency in seconds. Broken down by verb, and host.",
                buckets,
                &["verb", "host"],
            ),
        }
    }
}

impl CountRequests for RestClient {
    fn count(&self, method: &str, host: &str, code: Option<u16>, took: Duration) {
        let code = code.map_or_else(|| "<error>".to_owned(), |code| code.to_string());
        self.requests.with_label_values(&[&code, method, host]).inc();
        self.duration.with_label_values(&[method, host]).observe(took.as_secs_f64());
    }
}
