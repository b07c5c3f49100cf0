//! Sockets of the host's own processes whose peer was translated when they named it.

use crate::{Addr, Port, wire_enum};

/// The key of `sockets`: a socket, and a peer by the name that one side uses.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct SocketKey {
    /// The kernel's number of the socket (`SO_COOKIE`), never used twice.
    pub cookie: u64,
    pub addr: Addr,
    pub port: Port,
    /// A [`PeerSide`].
    pub side: u8,
    pub pad: [u8; 5],
}

const _: () = assert!(size_of::<SocketKey>() == 32);

wire_enum! {
    /// Whose name for the peer a [`SocketKey`] holds.
    pub enum PeerSide: u8 {
        /// The kernel's: the backend. The entry says what the process is to see instead.
        Backend = 0,
        /// The process's: the frontend. Only for UDP sockets that name a peer with each datagram, which stay with
        /// their backend.
        Frontend = 1,
    }
}

/// The value of `sockets`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Socket {
    /// The peer as the process named it.
    pub addr: Addr,
    pub port: Port,
    /// IANA protocol number.
    pub proto: u8,
    pub pad: u8,
    /// Index into `services`.
    pub service: u32,
    /// Index into `backends`.
    pub backend: u32,
    /// The backend's generation when it was chosen.
    pub generation: u32,
}

const _: () = assert!(size_of::<Socket>() == 32);

impl Socket {
    /// Nothing known.
    pub const BLANK: Self = Self {
        addr: Addr::UNSPECIFIED,
        port: Port::from_word(0),
        proto: 0,
        pad: 0,
        service: 0,
        backend: 0,
        generation: 0,
    };
}
