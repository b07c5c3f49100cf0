//! The agent and the commands of `lb`.
//!
//! ```text
//! source --Event--> Model --Desired--> Planner --Plan--> Plane
//! (api, manifests)  pure               pure              (kernel, or memory)
//! ```

pub mod agent;
pub mod command;
pub mod config;
pub mod dataplane;
pub mod desired;
pub mod hooks;
pub mod model;
pub mod node;
pub mod objects;
pub mod observe;
pub mod plan;
pub mod source;
pub mod tables;
