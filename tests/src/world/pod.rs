//! A pod: a namespace with one link, `eth0`, to the node.

use super::netns::Netns;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

#[derive(Clone, Debug)]
pub struct Pod {
    /// `client`, `client2`, `b1`, ...
    pub name: String,
    /// The node's end of its link: `veth-client`, `veth-b1`, ...
    pub link: String,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    pub netns: Netns,
}

impl Pod {
    /// The name of the pod's own end of its link.
    pub const LINK: &str = "eth0";

    pub(super) fn new(name: String, host: u8, netns: Netns) -> Self {
        // 10.244.1.10 and fd00:10:244:1::10 look alike: the decimal digits are written as hexadecimal ones.
        let alike = u16::from(host / 10) << 4 | u16::from(host % 10);
        Self {
            link: format!("veth-{name}"),
            v4: Ipv4Addr::new(10, 244, 1, host),
            v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, alike),
            name,
            netns,
        }
    }

    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }
}
