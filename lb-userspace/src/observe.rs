//! How the agent can be observed: metrics and health over HTTP, Events in Kubernetes, and the socket of `lb status`.
//!
//! A metric that the loop keeps belongs to [`telemetry::Telemetry`]. A metric that is read from elsewhere at each
//! scrape has a collector of its own in [`metrics`].

pub mod events;
pub mod health;
pub mod http;
pub mod metrics;
pub mod moment;
pub mod status_socket;
pub mod telemetry;
