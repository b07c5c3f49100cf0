//! Keeps programs attached where traffic passes: to the node's links, and to the sockets of its processes.

pub mod links;
pub mod sockets;
