//! The agent and the commands of `lb`: a folder for each box.
//!
//! ```text
//! source --Event--> model --Desired--> plan --Op--> tables::plane
//! (api, manifests)  pure               pure         (dataplane: the kernel; or memory)
//!
//! agent    the loop that joins them, with hooks (programs on links, at sockets) and observe (metrics, health, status)
//! command  what can be typed: `agent`, and what looks at the tables, the node and what kube-proxy left
//! config   kube-proxy's configuration
//! ```
//!
//! Below all of them: `objects` (names, and what a source tells of), `tables` (the content of the maps, and one write to
//! it), `node` (links, sockets and rights, as the kernel tells of them). No two folders import each other.

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
