//! Rewrites addresses and ports, and keeps the checksums right.
//!
//! The transport checksum is changed by the kernel's helper, which alone knows what the field holds: the sum
//! itself, only the pseudo header's (`CHECKSUM_PARTIAL`: GSO, offload), or one that `skb->csum` vouches for
//! (`CHECKSUM_COMPLETE`). The words of the headers are written plainly.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::bpf_l4_csum_replace,
};
use lb_common::{Addr, Endpoint, Flow};

use super::{Headers, Packet};

/// Under `CHECKSUM_COMPLETE` an IPv6 address that changes together with the checksum leaves `skb->csum` as it
/// is; IPv4 has a header checksum of its own that does so. Kernel commit "bpf: fix checksum update for IPv6".
const BPF_F_IPV6: u64 = 1 << 7;

const IPV4_LEN: u32 = 20;
const IPV4_CHECK: u32 = 10;
const IPV6_LEN: u32 = 40;
const IPV6_SRC: u32 = 8;
const IPV6_DST: u32 = 24;
const TCP_CHECK: u32 = 16;
const UDP_CHECK: u32 = 6;

/// Gives the packet the source and destination of its flow. `false` where the kernel refused: the packet may be half
/// rewritten and must not go on.
#[inline(always)]
#[must_use]
pub fn as_flow_says(packet: &mut Packet, flow: &Flow) -> bool {
    tuple(packet, &flow.src, &flow.dst)
}

/// As `as_flow_says`, for the first packet of a flow: by a call, which costs some nanoseconds and saves the verifier another copy
/// whose branches multiply.
#[inline(always)]
#[must_use]
pub fn as_new_flow_says(packet: &mut Packet, flow: &Flow) -> bool {
    rewrite(packet.skb, packet.headers, flow) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn rewrite(skb: *mut __sk_buff, headers: *mut Headers, flow: *const Flow) -> u32 {
    // SAFETY: null, or the caller's.
    let (Some(headers), Some(flow)) = (unsafe { (headers.as_mut(), flow.as_ref()) }) else { return 0 };
    u32::from(tuple(&mut Packet { skb, headers }, &flow.src, &flow.dst))
}

#[inline(always)]
fn tuple(packet: &mut Packet, src: &Endpoint, dst: &Endpoint) -> bool {
    let old_ports = u32::from(packet.key.sport.word()) | u32::from(packet.key.dport.word()) << 16;
    let new_ports = u32::from(src.port.word()) | u32::from(dst.port.word()) << 16;
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

/// Writes addresses and ports, in as few calls as the headers allow: each costs more than what it writes.
#[inline(always)]
fn store(packet: &mut Packet, src: Addr, dst: Addr, src_same: bool, delta: u32, ports: u32) -> bool {
    // Where no checksum makes up for what changes, `skb->csum` has to follow (CHECKSUM_COMPLETE).
    let flags = if packet.has_no_checksum() { u64::from(BPF_F_RECOMPUTE_CSUM) } else { 0 };
    let (p, q) = (ports as u16, (ports >> 16) as u16);
    if !packet.v6 {
        // Checksum, source and destination lie side by side, and without options the ports follow. The
        // header's own checksum makes up for the addresses.
        let check = !fold_16(u64::from(!packet.ip_check) + u64::from(delta));
        let (s, d) = (src.v4_word(), dst.v4_word());
        let [s, t, d, e] = [s as u16, (s >> 16) as u16, d as u16, (d >> 16) as u16];
        return if packet.l4 == packet.l3 + IPV4_LEN && flags == 0 {
            packet.store(packet.l3 + IPV4_CHECK, &[check, s, t, d, e, p, q], 0)
        } else {
            packet.store(packet.l3 + IPV4_CHECK, &[check, s, t, d, e], 0)
                && packet.store(packet.l4, &[p, q], flags)
        };
    }
    let d = dst.words();
    if src_same && packet.l4 == packet.l3 + IPV6_LEN {
        return packet.store(packet.l3 + IPV6_DST, &[d[0], d[1], d[2], d[3], ports], flags);
    }
    packet.store(packet.l3 + IPV6_SRC, &[src, dst], flags) && packet.store(packet.l4, &[p, q], flags)
}

/// Changes the transport checksum: by a difference (`from` 0, no size in `flags`), or from one word to another.
#[inline(always)]
fn fix_l4(packet: &mut Packet, from: u32, to: u32, flags: u64) -> bool {
    if packet.has_no_checksum() {
        return true;
    }
    let (offset, flags) = if packet.is_tcp() {
        (packet.l4 + TCP_CHECK, flags)
    } else {
        // A sum that comes out as 0 is written as its other form: 0 means none.
        (packet.l4 + UDP_CHECK, flags | u64::from(BPF_F_MARK_MANGLED_0))
    };
    // SAFETY: a plain helper call on the context.
    let replace = |flags| unsafe {
        bpf_l4_csum_replace(packet.skb, offset, u64::from(from), u64::from(to), flags) == 0
    };
    // A kernel that does not know the flag refuses it, and is wrong under CHECKSUM_COMPLETE without.
    replace(flags) || flags & BPF_F_IPV6 != 0 && replace(flags & !BPF_F_IPV6)
}

/// One's complement difference of two addresses (RFC 1624), not folded.
#[inline(always)]
pub fn delta(old: Addr, new: Addr) -> u64 {
    let (old, new) = (old.words(), new.words());
    u64::from(!old[0])
        + u64::from(!old[1])
        + u64::from(!old[2])
        + u64::from(!old[3])
        + u64::from(new[0])
        + u64::from(new[1])
        + u64::from(new[2])
        + u64::from(new[3])
}

#[inline(always)]
pub fn fold_32(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

/// Folds a one's complement sum of 32-bit words to 16 bits.
#[inline(always)]
pub fn fold_16(sum: u64) -> u16 {
    let sum = u64::from(fold_32(sum));
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
