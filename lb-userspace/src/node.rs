//! The node itself: its links, sockets, network namespaces and capabilities, as the kernel reports them.

pub mod capabilities;
pub mod genetlink;
pub mod listener;
pub mod netdev;
mod netlink;
pub mod netns;
pub mod nfnetlink;
pub mod role;
pub mod sockdiag;
