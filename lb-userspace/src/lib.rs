//! The agent and the commands of `lb`.
//!
//! ```text
//! source --Event--> Model --Desired--> Planner --Plan--> Plane
//! (api, manifests)  pure               pure              (kernel, or memory)
//! ```

pub mod desired;
pub mod model;
pub mod objects;
pub mod plan;
pub mod tables;
pub mod view;

pub mod agent;
pub mod check;
pub mod config;
pub mod dataplane;
pub mod flows;
pub mod hooks;
pub mod leftovers;
pub mod node;
pub mod observe;
pub mod source;
pub mod status;
