//! What keeps programs where traffic passes: at the node's links, and at the sockets of its processes.

pub mod links;
pub mod sockets;
