//! The node below the tables: its links, sockets, namespaces and rights, as the kernel tells of them.

pub mod capabilities;
pub mod listener;
pub mod netdev;
mod netlink;
pub mod netns;
pub mod nfnetlink;
pub mod role;
pub mod sockdiag;
