//! Reads the common frame (no VLAN tag, no IP options, linear) by direct loads, at any hook that shows the packet.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use lb_common::Proto;

use super::headers::{Headers, Span};
use super::layout::{Bytes, eth, ipv4, ipv6, l4, tcp};

/// A context with a packet whose linear part can be read directly.
pub trait Frame: Copy {
    /// Addresses of the first byte of the linear part, and of the first byte behind it.
    fn bounds(self) -> (usize, usize);
}

impl Frame for *mut __sk_buff {
    #[inline(always)]
    fn bounds(self) -> (usize, usize) {
        // SAFETY: context fields that the verifier turns into packet pointers.
        unsafe { ((*self).data as usize, (*self).data_end as usize) }
    }
}

impl Frame for *mut xdp_md {
    #[inline(always)]
    fn bounds(self) -> (usize, usize) {
        // SAFETY: as above.
        unsafe { ((*self).data as usize, (*self).data_end as usize) }
    }
}

/// Bytes of the linear part, or `None` if the frame ends earlier.
#[inline(always)]
fn peek<T: Bytes>(frame: impl Frame, offset: usize) -> Option<T> {
    let (data, end) = frame.bounds();
    let at = data + offset;
    if at + size_of::<T>() > end {
        return None;
    }
    // SAFETY: in bounds, by the line above. The target reads words at any address; on a machine that cannot, the
    // verifier refuses the program.
    Some(unsafe { *(at as *const T) })
}

/// The start of an IPv4 frame: one check of bounds for all of it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Start {
    eth: eth::Header,
    ip: ipv4::Header,
    l4: l4::Start,
}

impl Bytes for Start {}

const L3: usize = eth::LEN as usize;

/// Reads TCP or UDP over a plain IPv4 or IPv6 header in a linear frame; `None` for every other frame.
#[inline(always)]
pub fn parse(frame: impl Frame) -> Option<Headers> {
    let Start { eth, ip, l4 } = peek(frame, 0)?;
    if eth.ethertype() == eth::IP && ip.is_plain() && !ip.is_fragment() {
        let len = ip.total_len().saturating_sub(ipv4::LEN);
        let (tcp_flags, span) = transport(frame, L3 + ipv4::LEN as usize, ip.proto(), len)?;
        return Some(Headers {
            key: ip.key(l4.ports()),
            l3: eth::LEN,
            l4: eth::LEN + ipv4::LEN,
            v6: false,
            tcp_flags,
            ip_check: ip.check(),
            l4_check: l4.udp_check(),
            pad: 0,
            span,
        });
    }
    if eth.ethertype() == eth::IPV6 {
        let ip = peek::<ipv6::Header>(frame, L3)?;
        let (tcp_flags, span) = transport(frame, L3 + ipv6::LEN as usize, ip.next(), ip.payload_len())?;
        let l4 = peek::<l4::Start>(frame, L3 + ipv6::LEN as usize)?;
        if ip.is_mapped() {
            return None;
        }
        return Some(Headers {
            key: ip.key(l4.ports()),
            l3: eth::LEN,
            l4: eth::LEN + ipv6::LEN,
            v6: true,
            tcp_flags,
            ip_check: 0,
            l4_check: l4.udp_check(),
            pad: 0,
            span,
        });
    }
    None
}

/// TCP's flags and span, nothing for UDP; `None` for other protocols. `len` counts from `l4`.
#[inline(always)]
fn transport(frame: impl Frame, l4: usize, proto: u8, len: u32) -> Option<(u8, Span)> {
    if proto == Proto::Tcp.number() {
        let tcp = peek::<tcp::Header>(frame, l4)?;
        Some((tcp.flags(), Span::of(&tcp, len)))
    } else if proto == Proto::Udp.number() {
        Some((0, Span::UNREAD))
    } else {
        None
    }
}
