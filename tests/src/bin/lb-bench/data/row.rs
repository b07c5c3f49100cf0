//! What is measured.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A figure: what a client does again and again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Row {
    /// One connection after another, with a byte in each direction.
    Connections,
    /// The same, 32 at a time, on all CPUs.
    ConnectionsAtOnce,
    /// A byte in each direction again and again, in one connection.
    TcpRequests,
    /// The same with datagrams.
    UdpRequests,
    /// One stream, with segmentation offload.
    Stream,
    /// One stream of packets of at most 1,500 bytes.
    StreamOfPackets,
}

impl Row {
    pub const ALL: [Self; 6] = [
        Self::Connections,
        Self::ConnectionsAtOnce,
        Self::TcpRequests,
        Self::UdpRequests,
        Self::Stream,
        Self::StreamOfPackets,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "TCP connections/s, one at a time",
            Self::ConnectionsAtOnce => "TCP connections/s, 32 at a time",
            Self::TcpRequests => "TCP requests/s",
            Self::UdpRequests => "UDP requests/s",
            Self::Stream => "TCP bytes/s",
            Self::StreamOfPackets => "TCP bytes/s without segmentation offload",
        }
    }

    /// Port of the server, and of the Service.
    pub const fn ports(self) -> (u16, u16) {
        match self {
            Self::Connections | Self::TcpRequests | Self::UdpRequests => (8_080, 80),
            Self::ConnectionsAtOnce => (8_081, 81),
            Self::Stream | Self::StreamOfPackets => (8_082, 82),
        }
    }

    /// Whether client and server stay on one CPU. The wake-up of another CPU varies more than what is measured.
    pub const fn shares_a_cpu(self) -> bool {
        !matches!(self, Self::ConnectionsAtOnce)
    }
}
