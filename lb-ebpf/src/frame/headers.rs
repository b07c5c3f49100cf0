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
    /// 0 if this is not TCP.
    pub tcp_flags: u8,
    /// IPv4 header checksum as it lies in the frame.
    pub ip_check: u16,
    /// UDP: checksum as it lies in the frame. TCP: something else.
    pub l4_check: u16,
    pub pad: u16,
    /// Unread if this is not TCP.
    pub span: Span,
}

/// What a TCP segment says about both directions of its connection. In host byte order.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Span {
    /// Sequence number.
    pub seq: u32,
    /// The sequence number of what follows the segment.
    pub end: u32,
    /// Acknowledgement number.
    pub ack: u32,
}

impl Span {
    pub const UNREAD: Self = Self { seq: 0, end: 0, ack: 0 };

    /// Sequence and acknowledgement number as one argument of a global function.
    #[inline(always)]
    pub const fn numbers(&self) -> u64 {
        self.seq as u64 | (self.ack as u64) << 32
    }

    /// The inverse of [`Span::numbers`].
    #[inline(always)]
    pub const fn of_numbers(numbers: u64) -> (u32, u32) {
        (numbers as u32, (numbers >> 32) as u32)
    }

    /// Reads the span of a segment that has this many bytes of the IP packet, header included. An aggregate that is too
    /// long for the length field of IP has 0 there, and counts as if it had no payload.
    #[inline(always)]
    pub const fn of(tcp: &tcp::Header, len: u32) -> Self {
        let payload = len.saturating_sub(tcp.len());
        let phantom = (tcp.flags() & tcp::SYN != 0) as u32 + (tcp.flags() & tcp::FIN != 0) as u32;
        let seq = u32::from_be(tcp.seq());
        Self { seq, end: seq.wrapping_add(payload + phantom), ack: u32::from_be(tcp.ack()) }
    }
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
            span: Span::UNREAD,
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
