//! Whether a packet's source belongs to the link by which the packet came.
//!
//! Our programs run before everything on the node that drops forged packets (the reverse path filter, a policy). A
//! packet that opens or ends a flow must therefore prove its source here, else one pod could close the connections of
//! another with packets that nothing ever delivers.

use core::mem::zeroed;

use aya_ebpf::bindings::{
    __sk_buff, BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
    BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
    BPF_FIB_LKUP_RET_UNREACHABLE, BPF_FIB_LKUP_RET_UNSUPP_LWT, bpf_fib_lookup as FibLookup,
};
use aya_ebpf::helpers::bpf_fib_lookup;
use lb_common::{Counter, Flow};

use crate::frame::{Headers, Link, Packet};
use crate::global::global;
use crate::maps;
use crate::settings;

/// From linux/socket.h.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Whether a packet from a pod may open or end a flow. A packet that may not is counted.
#[inline(always)]
pub fn is_proven(packet: &mut Packet, link: Link) -> bool {
    // To a port of a bridge no route leads.
    if !settings::source_check() || link.is_port() {
        return true;
    }
    // SAFETY: a plain read of the context.
    let came_by = unsafe { (*packet.skb).ifindex };
    let proven = leads_back(packet.skb, packet.headers, came_by);
    if !proven {
        maps::count(Counter::SpoofedSource);
    }
    proven
}

/// Looks at a FIN or RST that a pod sends as a reply. If its source, a backend's address, is forged, it must not end the
/// flow when it comes to the client's link.
#[inline(always)]
pub fn look_at_end_of_reply(packet: &mut Packet, link: Link) {
    if !settings::source_check() {
        return;
    }
    let Some(reverse) = maps::flow(&packet.key) else { return };
    if reverse.is_reverse() && !reverse.is_hairpin() && !is_proven(packet, link) {
        reverse.doubted = packet.span.seq;
        reverse.flags |= Flow::DOUBTED;
    }
}

/// Whether this FIN or RST of a backend is the forged one that was seen last. The packet is translated in any case.
#[inline(always)]
pub fn is_doubted(packet: &Packet, reverse: &Flow) -> bool {
    reverse.flags & Flow::DOUBTED != 0 && reverse.doubted == packet.span.seq
}

global!(
    /// Whether the route to the packet's source leads to this link; true if the kernel cannot tell.
    fn leads_back(skb: *mut __sk_buff, headers: &mut Headers, link: u32) -> bool = ask_routes, null: true
);

#[inline(always)]
fn ask_routes(skb: *mut __sk_buff, headers: &mut Headers, link: u32) -> bool {
    // SAFETY: integers and unions of integers.
    let mut lookup: FibLookup = unsafe { zeroed() };
    // The tuple of an answer, which came by the link for the rules of policy routing.
    lookup.ifindex = link;
    if headers.v6 {
        lookup.family = AF_INET6;
        lookup.__bindgen_anon_3.ipv6_src = headers.key.dst.words();
        lookup.__bindgen_anon_4.ipv6_dst = headers.key.src.words();
    } else {
        lookup.family = AF_INET;
        lookup.__bindgen_anon_3.ipv4_src = headers.key.dst.v4_word();
        lookup.__bindgen_anon_4.ipv4_dst = headers.key.src.v4_word();
    }
    // SAFETY: the context, and a structure of this size.
    let answer = unsafe { bpf_fib_lookup(skb.cast(), &raw mut lookup, size_of::<FibLookup>() as i32, 0) };
    match u32::try_from(answer) {
        // The packet may be too long for the link that the route names.
        Ok(BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH | BPF_FIB_LKUP_RET_FRAG_NEEDED) => {
            lookup.ifindex == link
        }
        Ok(
            BPF_FIB_LKUP_RET_BLACKHOLE
            | BPF_FIB_LKUP_RET_UNREACHABLE
            | BPF_FIB_LKUP_RET_PROHIBIT
            | BPF_FIB_LKUP_RET_NOT_FWDED
            | BPF_FIB_LKUP_RET_UNSUPP_LWT,
        ) => false,
        // Forwarding is off on the link, or the kernel has no such family.
        _ => true,
    }
}
