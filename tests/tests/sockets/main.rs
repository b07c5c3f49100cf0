//! The host's own processes reach Services at their sockets: real sockets in a node's namespace, in a cgroup of their own.

mod agent;
mod client;
mod cost;
mod ends;
mod reach;
mod stage;
mod verdicts;
