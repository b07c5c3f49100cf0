//! What the agent shows of itself: metrics and health by HTTP, Events in Kubernetes, and the socket of `lb status`.
//!
//! A metric that the loop keeps is one of [`telemetry::Telemetry`]; one that is read from elsewhere at each scrape is a
//! collector of its own in [`metrics`].

pub mod events;
pub mod health;
pub mod http;
pub mod metrics;
pub mod moment;
pub mod status_socket;
pub mod telemetry;
