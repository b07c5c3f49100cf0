//! Packets as sentences: `tcp("10.244.1.10:4000", "10.96.0.10:80").syn().vlan(7)`.
//!
//! A [`Packet`] is a plain value. [`Packet::bytes`] writes a packet as a frame and computes its checksums;
//! [`Packet::parse`] reads a frame and verifies them. A test can thus compare values and print the fields that
//! differ. This module shares no code with the code under test.

mod checksum;
mod read;
mod sentence;
mod show;
mod write;

pub use read::Checksums;
pub use sentence::{Place, icmp, sctp, tcp, udp};
pub use show::{Mac, assert_same};

use std::net::{IpAddr, SocketAddr};

/// An Ethernet frame that carries IP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    pub eth_src: Mac,
    pub eth_dst: Mac,
    /// VLAN ids, the outer tag first. With two or more, the outer is 802.1ad.
    pub vlans: Vec<u16>,
    pub src: IpAddr,
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub hops: u8,
    /// DSCP and ECN.
    pub class: u8,
    pub dont_fragment: bool,
    /// IPv4 options, a multiple of 4 bytes.
    pub ip_options: Vec<u8>,
    /// IPv6 extension headers other than the fragment header.
    pub extensions: Vec<Extension>,
    pub fragment: Option<Fragment>,
    pub transport: Transport,
}

/// An IPv6 extension header: its number, and the bytes after its fields for the next header and the length.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extension {
    pub kind: u8,
    /// `6 + 8n` bytes.
    pub body: Vec<u8>,
}

impl Extension {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const DESTINATION: u8 = 60;
}

/// The position of a fragment in its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    pub id: u32,
    /// In bytes; a multiple of 8.
    pub offset: u16,
    pub more: bool,
}

/// The payload of IP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transport {
    Tcp(Tcp),
    Udp(Udp),
    Sctp(Sctp),
    /// ICMP or ICMPv6, depending on the family of the packet.
    Icmp(Icmp),
    /// Any other protocol, or a fragment of a datagram.
    Other {
        proto: u8,
        bytes: Vec<u8>,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tcp {
    pub sport: u16,
    pub dport: u16,
    pub seq: u32,
    pub ack: u32,
    /// A combination of `Tcp::SYN` and the other flags.
    pub flags: u8,
    pub window: u16,
    /// A multiple of 4 bytes.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Tcp {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Udp {
    pub sport: u16,
    pub dport: u16,
    /// IPv4 allows a datagram without a checksum (RFC 768).
    pub checksum: bool,
    pub payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sctp {
    pub sport: u16,
    pub dport: u16,
    /// The receiver's verification tag.
    pub tag: u32,
    pub chunks: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Icmp {
    pub kind: u8,
    pub code: u8,
    /// The second word of the header: MTU, id and sequence, or unused.
    pub rest: [u8; 4],
    pub body: Vec<u8>,
}

impl Packet {
    /// The source with its port; the port is 0 if the transport has none.
    pub fn from(&self) -> SocketAddr {
        SocketAddr::new(self.src, self.ports().map_or(0, |(sport, _)| sport))
    }

    /// The destination with its port; the port is 0 if the transport has none.
    pub fn to(&self) -> SocketAddr {
        SocketAddr::new(self.dst, self.ports().map_or(0, |(_, dport)| dport))
    }

    /// The source port and the destination port, if the transport has ports.
    pub fn ports(&self) -> Option<(u16, u16)> {
        match &self.transport {
            Transport::Tcp(tcp) => Some((tcp.sport, tcp.dport)),
            Transport::Udp(udp) => Some((udp.sport, udp.dport)),
            Transport::Sctp(sctp) => Some((sctp.sport, sctp.dport)),
            Transport::Icmp(_) | Transport::Other { .. } => None,
        }
    }

    /// The IANA protocol number of the transport.
    pub fn proto(&self) -> u8 {
        match (&self.transport, self.src) {
            (Transport::Tcp(_), _) => 6,
            (Transport::Udp(_), _) => 17,
            (Transport::Sctp(_), _) => 132,
            (Transport::Icmp(_), IpAddr::V4(_)) => 1,
            (Transport::Icmp(_), IpAddr::V6(_)) => 58,
            (Transport::Other { proto, .. }, _) => *proto,
        }
    }

    /// The TCP segment, if the packet has one.
    pub fn tcp(&self) -> Option<&Tcp> {
        match &self.transport {
            Transport::Tcp(tcp) => Some(tcp),
            _ => None,
        }
    }

    /// The payload of TCP, UDP or SCTP; empty for other protocols.
    pub fn data(&self) -> &[u8] {
        match &self.transport {
            Transport::Tcp(tcp) => &tcp.payload,
            Transport::Udp(udp) => &udp.payload,
            Transport::Sctp(sctp) => &sctp.chunks,
            Transport::Icmp(_) | Transport::Other { .. } => &[],
        }
    }
}
