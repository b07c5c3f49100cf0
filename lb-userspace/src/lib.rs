//! The agent and the commands of `lb`: a folder for each box.
//!
//! ```text
//! source --Event--> model --Desired--> plan --Op--> tables::plane
//! (api, manifests)  pure               pure         (dataplane: the kernel; or memory)
//!
//! agent    the loop that joins them, with hooks (programs on links, at sockets) and observe (metrics, health, status)
//! command  the commands: `agent`, and those that inspect the tables, the node and what kube-proxy left
//! config   kube-proxy's configuration
//! ```
//!
//! Below all of them: `objects` (names, and what a source reports), `tables` (the content of the maps, and a single
//! write to them), `node` (links, sockets and rights, as the kernel reports them). No two folders import each other.

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
