//! Rewrites addresses and ports, and keeps the checksums right.
//!
//! The transport checksum is changed by the kernel's helper, which alone knows what the field holds: the sum
//! itself, only the pseudo header's (`CHECKSUM_PARTIAL`: GSO, offload), or one that `skb->csum` vouches for
//! (`CHECKSUM_COMPLETE`). The words of the headers are written plainly.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::bpf_l4_csum_replace,
};
use lb_common::checksum::{delta, fold_32, updated};
use lb_common::{Addr, Flow};

use super::headers::Headers;
use super::layout::{halves, ipv4, ipv6, tcp, udp};
use super::packet::Packet;
use crate::global::global;

/// Under `CHECKSUM_COMPLETE` an IPv6 address that changes together with the checksum leaves `skb->csum` as it
/// is; IPv4 has a header checksum of its own that does so. Kernel commit "bpf: fix checksum update for IPv6".
const BPF_F_IPV6: u64 = 1 << 7;

/// Gives the packet the source and destination of its flow. Returns false if the kernel refused: the packet may be
/// half rewritten then and must not continue.
#[inline(always)]
#[must_use]
pub fn as_flow_says(packet: &mut Packet, flow: &Flow) -> bool {
    translate(packet.skb, packet.headers, flow)
}

global!(
    /// As `as_flow_says`, for the first packet of a flow, by a call: it costs some nanoseconds and saves the verifier
    /// another copy, whose branches multiply.
    #[must_use]
    pub fn rewrite(skb: *mut __sk_buff, headers: &mut Headers, flow: &Flow) -> bool = translate, null: false
);

#[inline(always)]
fn translate(skb: *mut __sk_buff, headers: &mut Headers, flow: &Flow) -> bool {
    let packet = &mut Packet { skb, headers };
    let (src, dst) = (&flow.src, &flow.dst);
    let (old_ports, new_ports) = (packet.key.ports(), flow.ports());
    let src_same = packet.key.src.same(src.addr);
    let dst_same = packet.key.dst.same(dst.addr);
    if src_same && dst_same && old_ports == new_ports {
        return true;
    }
    let sums_change = !(src_same && dst_same);
    let delta = fold_32(delta(packet.key.src, src.addr) + delta(packet.key.dst, dst.addr));
    let family = if packet.v6 { BPF_F_IPV6 } else { 0 };
    if sums_change && !fix_l4(packet, 0, delta, u64::from(BPF_F_PSEUDO_HDR) | family) {
        return false;
    }
    if old_ports != new_ports && !fix_l4(packet, old_ports, new_ports, 4) {
        return false;
    }
    store(packet, src.addr, dst.addr, src_same, delta, new_ports)
}

/// Writes addresses and ports, in as few calls as the headers allow: each call costs more than what it writes.
#[inline(always)]
fn store(packet: &mut Packet, src: Addr, dst: Addr, src_same: bool, delta: u32, ports: u32) -> bool {
    // If no checksum makes up for what changes, `skb->csum` has to follow (CHECKSUM_COMPLETE).
    let flags = if packet.has_no_checksum() { u64::from(BPF_F_RECOMPUTE_CSUM) } else { 0 };
    let [p, q] = halves(ports);
    if !packet.v6 {
        // Checksum, source and destination lie next to each other, and the ports follow if there are no options. The
        // header's own checksum makes up for the addresses.
        let check = updated(packet.ip_check, u64::from(delta));
        let ([s, t], [d, e]) = (halves(src.v4_word()), halves(dst.v4_word()));
        return if packet.l4 == packet.l3 + ipv4::LEN && flags == 0 {
            packet.store(packet.l3 + ipv4::CHECK, &[check, s, t, d, e, p, q], 0)
        } else {
            packet.store(packet.l3 + ipv4::CHECK, &[check, s, t, d, e], 0)
                && packet.store(packet.l4, &[p, q], flags)
        };
    }
    let d = dst.words();
    if src_same && packet.l4 == packet.l3 + ipv6::LEN {
        return packet.store(packet.l3 + ipv6::DST, &[d[0], d[1], d[2], d[3], ports], flags);
    }
    packet.store(packet.l3 + ipv6::SRC, &[src, dst], flags) && packet.store(packet.l4, &[p, q], flags)
}

/// Changes the transport checksum by a difference (`from` 0, no size in `flags`), or from one word to another.
#[inline(always)]
fn fix_l4(packet: &mut Packet, from: u32, to: u32, flags: u64) -> bool {
    if packet.has_no_checksum() {
        return true;
    }
    let (offset, flags) = if packet.is_tcp() {
        (packet.l4 + tcp::CHECK, flags)
    } else {
        // A sum of 0 is written in its other form, because 0 means no checksum.
        (packet.l4 + udp::CHECK, flags | u64::from(BPF_F_MARK_MANGLED_0))
    };
    // SAFETY: a plain helper call on the context.
    let replace = |flags| unsafe {
        bpf_l4_csum_replace(packet.skb, offset, u64::from(from), u64::from(to), flags) == 0
    };
    // A kernel that does not know the flag refuses it; without the flag it is wrong under CHECKSUM_COMPLETE.
    replace(flags) || flags & BPF_F_IPV6 != 0 && replace(flags & !BPF_F_IPV6)
}
