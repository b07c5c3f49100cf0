//! Processes of the host reach Services through their sockets: real sockets in a node's namespace, in their own
//! cgroup.

mod agent;
mod client;
mod cost;
mod ends;
mod reach;
mod stage;
mod verdicts;
