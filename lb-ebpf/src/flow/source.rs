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
use lb_common::{BridgeHost, Counter, Flow};

use crate::frame::{Headers, Link, Packet};
use crate::global::global;
use crate::maps;
use crate::settings;

/// From linux/socket.h.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const ENODEV: i64 = -19;

/// Whether a packet from a pod may open or end a flow. A packet that may not is counted. `flow` is the forward entry of
/// the packet's flow, if there is one: the link by which its packets come is not asked for again.
#[inline(always)]
pub fn is_proven(packet: &mut Packet, link: Link, flow: Option<&mut Flow>) -> bool {
    if !settings::source_check() {
        return true;
    }
    let came_by = packet.ifindex();
    if flow.as_ref().is_some_and(|flow| flow.link == came_by) {
        return true;
    }
    let proven = if link.is_port() {
        is_on_port(packet.skb, packet.headers, came_by)
    } else {
        leads_back(packet.skb, packet.headers, came_by)
    };
    if !proven {
        maps::count(Counter::SpoofedSource);
    } else if let Some(flow) = flow {
        flow.link = came_by;
    }
    proven
}

/// The MAC address by which a reply's sender, a host on the bridge, can be reached, if the reply came from there; 0 if
/// it did not. A pod that forges its source must not have the flow's packets sent to itself.
#[inline(always)]
pub fn mac_to_learn(packet: &mut Packet, reverse: &mut Flow) -> u64 {
    let mac = packet.source_mac();
    if !settings::source_check() || mac == low_48(reverse.mac) {
        return mac;
    }
    let port = packet.ifindex();
    if !is_neighbour(packet.skb, packet.headers, port, mac) {
        return 0;
    }
    let [a, b, c, d, e, f, ..] = mac.to_le_bytes();
    reverse.mac = [a, b, c, d, e, f];
    mac
}

/// First byte lowest.
#[inline(always)]
const fn low_48(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// Looks at a FIN or RST that a pod sends as a reply. If its source, a backend's address, is forged, it must not end the
/// flow when it comes to the client's link.
#[inline(always)]
pub fn look_at_end_of_reply(packet: &mut Packet, link: Link) {
    if !settings::source_check() {
        return;
    }
    let Some(reverse) = maps::flow(&packet.key) else { return };
    if !reverse.is_reverse() || reverse.is_hairpin() {
        return;
    }
    if !is_proven(packet, link, None) {
        reverse.doubted = packet.span.seq;
        reverse.flags |= Flow::DOUBTED;
    } else if reverse.doubted == packet.span.seq {
        reverse.flags &= !Flow::DOUBTED;
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
    match route_back(skb, headers, link) {
        Way::To { link: back, .. } => back == link,
        Way::Nowhere => false,
        Way::NoLink | Way::NotKnown => true,
    }
}

global!(
    /// Whether the packet's source is a host behind this port of a bridge; true if nobody can tell.
    fn is_on_port(skb: *mut __sk_buff, headers: &mut Headers, port: u32) -> bool = ask_bridge, null: true
);

/// The host is known from an earlier packet, or the route back leads to the bridge, and the kernel knows the host by the
/// MAC address of the frame. A host may move to another port with another MAC address, or if the first port is gone; one
/// MAC address at two ports is forged.
#[inline(always)]
fn ask_bridge(skb: *mut __sk_buff, headers: &mut Headers, port: u32) -> bool {
    let source = headers.key.src;
    let known = maps::bridge_host(&source);
    if known.is_some_and(|known| known.port == port) {
        return true;
    }
    let Some(bridge) = maps::bridge_of(port) else { return true };
    let neighbour = match route_back(skb, headers, bridge) {
        Way::To { link, mac } if link == bridge || maps::bridge_of(link) == Some(bridge) => mac,
        Way::NoLink | Way::NotKnown => return true,
        Way::To { .. } | Way::Nowhere => return false,
    };
    // The kernel has not asked for the host yet.
    let Some(neighbour) = neighbour else { return known.is_none() };
    let mac = Packet { skb, headers }.source_mac();
    if mac != low_48(neighbour) {
        return false;
    }
    if let Some(known) = known
        && known.mac == neighbour
        && maps::bridge_of(known.port) == Some(bridge)
        && !matches!(route_back(skb, headers, known.port), Way::NoLink)
    {
        return false;
    }
    maps::bridge_host_insert(&source, &BridgeHost { port, mac: neighbour, pad: 0 });
    true
}

global!(
    /// Whether the kernel knows the packet's source by this MAC address (first byte lowest) as a host on the bridge of
    /// this port; true if nobody can tell.
    fn is_neighbour(skb: *mut __sk_buff, headers: &mut Headers, port: u32, mac: u64) -> bool = ask_neighbours,
        null: true
);

#[inline(always)]
fn ask_neighbours(skb: *mut __sk_buff, headers: &mut Headers, port: u32, mac: u64) -> bool {
    let Some(bridge) = maps::bridge_of(port) else { return true };
    match route_back(skb, headers, bridge) {
        Way::To { mac: Some(neighbour), .. } => low_48(neighbour) == mac,
        Way::To { mac: None, .. } | Way::Nowhere => false,
        Way::NoLink | Way::NotKnown => true,
    }
}

/// Where the route to an address leads.
enum Way {
    /// Out of this link, and to this neighbour, if the kernel knows the neighbour's MAC address.
    To { link: u32, mac: Option<[u8; 6]> },
    /// To the node itself, or nowhere.
    Nowhere,
    /// The link is gone.
    NoLink,
    /// Forwarding is off on the link, or the kernel has no such family.
    NotKnown,
}

/// Where the route to the packet's source leads, for a packet that came by `link`.
#[inline(always)]
fn route_back(skb: *mut __sk_buff, headers: &Headers, link: u32) -> Way {
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
    if answer == ENODEV {
        return Way::NoLink;
    }
    match u32::try_from(answer) {
        // The packet may be too long for the link that the route names.
        Ok(BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_FRAG_NEEDED) => {
            Way::To { link: lookup.ifindex, mac: Some(lookup.dmac) }
        }
        Ok(BPF_FIB_LKUP_RET_NO_NEIGH) => Way::To { link: lookup.ifindex, mac: None },
        Ok(
            BPF_FIB_LKUP_RET_BLACKHOLE
            | BPF_FIB_LKUP_RET_UNREACHABLE
            | BPF_FIB_LKUP_RET_PROHIBIT
            | BPF_FIB_LKUP_RET_NOT_FWDED
            | BPF_FIB_LKUP_RET_UNSUPP_LWT,
        ) => Way::Nowhere,
        _ => Way::NotKnown,
    }
}
