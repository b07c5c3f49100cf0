//! What was read from a frame.

use lb_common::FlowKey;

use super::layout::{eth, tcp};
use crate::global::ByPointer;

/// What was read from a frame. Offsets are in bytes from the start of the frame. Holds no pointer, so that global
/// functions can take it, and no context, so that every hook can.
#[repr(C)]
pub struct Headers {
    /// The five-tuple as it stands in the frame.
    pub key: FlowKey,
    pub l3: u32,
    pub l4: u32,
    pub v6: bool,
    pub tcp_flags: u8,
    /// IPv4 header checksum as it lies in the frame.
    pub ip_check: u16,
    /// UDP: checksum as it lies in the frame. TCP: something else.
    pub l4_check: u16,
    pub pad: u16,
}

impl ByPointer for Headers {}

impl Headers {
    /// Nothing read yet.
    #[inline(always)]
    pub fn unread() -> Self {
        Self {
            key: FlowKey::BLANK,
            l3: eth::LEN,
            l4: 0,
            v6: false,
            tcp_flags: 0,
            ip_check: 0,
            l4_check: 0,
            pad: 0,
        }
    }

    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.key.is_tcp()
    }

    /// Whether this is the first segment of a connection.
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        is_syn(self.tcp_flags)
    }

    /// Whether the segment ends a connection, or one side of it.
    #[inline(always)]
    pub const fn has_end_flag(&self) -> bool {
        self.tcp_flags & (tcp::FIN | tcp::RST) != 0
    }

    /// Whether the segment opens or ends a connection.
    #[inline(always)]
    pub const fn has_control_flag(&self) -> bool {
        self.tcp_flags & (tcp::FIN | tcp::RST | tcp::SYN) != 0
    }

    /// Whether the packet is a datagram without a checksum (RFC 768; over IPv6, RFC 6935), or SCTP, whose
    /// checksum is parsed as 0.
    #[inline(always)]
    pub const fn has_no_checksum(&self) -> bool {
        !self.is_tcp() && self.l4_check == 0
    }
}

/// Whether these are the flags of the first segment of a connection.
#[inline(always)]
pub const fn is_syn(tcp_flags: u8) -> bool {
    tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
}
