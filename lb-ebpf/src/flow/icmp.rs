//! ICMP about translated flows. On its way to the client an error quotes the packet as it was after the translation,
//! which the client never sent. The quotation is translated back, so that path MTU discovery works through a VIP and a
//! closed port is refused at once. A redirect is dropped. An error that a client sends quotes a reply of the VIP: the
//! error goes to the backend, about the reply that the backend sent.

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_l4_csum_replace};
use lb_common::checksum::{delta, delta_word, fold_32, updated};
use lb_common::{Action, Flow, FlowKey, wire_enum};

use crate::frame::layout::{icmp, ipv4, ipv6};
use crate::frame::{Headers, Packet};
use crate::global::{answer, global};
use crate::maps;

/// Destination unreachable, source quench, time exceeded, parameter problem (RFC 792).
const ICMP_ERRORS: [u8; 4] = [3, 4, 11, 12];
/// Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443).
const ICMPV6_ERRORS: [u8; 4] = [1, 2, 3, 4];
const ICMP_REDIRECT: u8 = 5;
const ICMPV6_REDIRECT: u8 = 137;
/// RFC 4861 4.5: the header of a redirect, with both addresses.
const REDIRECT_LEN: u32 = 40;
/// RFC 4861 4.6.3: an option whose header is as long as that of a message.
const OPTION_REDIRECTED_HEADER: u8 = 4;
const MAX_OPTIONS: u32 = 4;

wire_enum! {
    /// What becomes of the message.
    pub enum Fate: u32 {
        /// The message is not about a flow of ours, or it was translated.
        Continue = 0,
        /// A redirect. The host sends one when it routes a translated packet back into the bridge by which the packet
        /// came, and the client would learn a route for an address to which it never spoke.
        Redirect = 1,
        /// The kernel refused a write.
        Failed = 2,
    }
}

answer!(Fate, Failed);

/// A packet that a message quotes: its place in the frame, and its tuple.
struct Quoted {
    key: FlowKey,
    l3: u32,
    l4: u32,
    /// IPv4 header checksum.
    check: u16,
}

global!(
    /// Looks at a message to a client, and translates what it quotes.
    pub fn inspect_icmp(skb: *mut __sk_buff, headers: &mut Headers) -> Fate = message, null: Fate::Continue
);

global!(
    /// Translates a message from a client about a reply that it got. Returns false if the kernel refused a write.
    pub fn icmp_of_client(skb: *mut __sk_buff, headers: &mut Headers) -> bool = about_reply, null: true
);

#[inline(always)]
fn about_reply(skb: *mut __sk_buff, headers: &mut Headers) -> bool {
    let packet = &mut Packet { skb, headers };
    let Some(Quotation { packet: quoted, is_redirect: false }) = quotation(packet) else {
        return true;
    };
    let request = quoted.key.reversed();
    // A client may speak only for itself.
    if !packet.key.src.same(request.src)
        || !packet.key.dst.same(request.dst)
        || !maps::interesting(request.dst, request.dport, request.proto)
            && !maps::near_service(request.dst, request.dport)
    {
        return true;
    }
    let Some(flow) = maps::flow(&request) else { return true };
    // What a pod says about its own reply stays as it is.
    if flow.is_reverse() || flow.action != Action::Stack.number() {
        return true;
    }
    if flow.dst.addr.same(request.dst) && flow.dst.port.word() == request.dport.word() {
        return true;
    }
    translate_to_backend(packet, &quoted, flow)
}

/// Gives the message the backend as its destination, and the quotation the backend as its source and the port by which
/// the backend knows the client.
#[inline(always)]
fn translate_to_backend(packet: &mut Packet, quoted: &Quoted, flow: &Flow) -> bool {
    let (vip, backend) = (quoted.key.src, flow.dst.addr);
    let (old_ports, new_ports) = (quoted.key.ports(), flow.reversed_ports());
    let moved = delta(vip, backend);
    let stored = if packet.v6 {
        packet.store(quoted.l3 + ipv6::SRC, &backend, 0) && packet.store(packet.l3 + ipv6::DST, &backend, 0)
    } else {
        let (inner, outer) = (updated(quoted.check, moved), updated(packet.ip_check, moved));
        let word = backend.v4_word();
        packet.store(quoted.l3 + ipv4::CHECK, &inner, 0)
            && packet.store(quoted.l3 + ipv4::SRC, &word, 0)
            && packet.store(packet.l3 + ipv4::CHECK, &outer, 0)
            && packet.store(packet.l3 + ipv4::DST, &word, 0)
    };
    // The checksum of ICMPv6 covers its own destination, too.
    let address = if packet.v6 { u64::from(fold_32(moved)) * 2 } else { 0 };
    stored && finish(packet, quoted, address, old_ports, new_ports)
}

/// A packet that a message quotes, and the kind of the message.
struct Quotation {
    packet: Quoted,
    is_redirect: bool,
}

#[inline(always)]
fn quotation(packet: &Packet) -> Option<Quotation> {
    let kind = packet.load::<u8>(packet.l4)?;
    let v4 = packet.key.proto == icmp::V4;
    let is_redirect = kind == if v4 { ICMP_REDIRECT } else { ICMPV6_REDIRECT };
    let is_error = if v4 { is_one_of(kind, ICMP_ERRORS) } else { is_one_of(kind, ICMPV6_ERRORS) };
    let at = if is_redirect && !v4 {
        redirected(packet)?
    } else if is_redirect || is_error {
        packet.l4 + icmp::LEN
    } else {
        return None;
    };
    let packet = if v4 { quoted_v4(packet, at) } else { quoted_v6(packet, at) }?;
    Some(Quotation { packet, is_redirect })
}

#[inline(always)]
fn message(skb: *mut __sk_buff, headers: &mut Headers) -> Fate {
    let packet = &mut Packet { skb, headers };
    let Some(Quotation { packet: quoted, is_redirect }) = quotation(packet) else { return Fate::Continue };
    if !maps::interesting(quoted.key.dst, quoted.key.dport, quoted.key.proto) {
        return Fate::Continue;
    }
    let Some(flow) = maps::flow(&quoted.key.reversed()) else { return Fate::Continue };
    if !flow.is_reverse() {
        return Fate::Continue;
    }
    if is_redirect {
        return if flow.has_service() { Fate::Redirect } else { Fate::Continue };
    }
    if translate(packet, &quoted, flow) { Fate::Continue } else { Fate::Failed }
}

#[inline(always)]
fn is_one_of(kind: u8, kinds: [u8; 4]) -> bool {
    kind == kinds[0] || kind == kinds[1] || kind == kinds[2] || kind == kinds[3]
}

/// Gives the quotation the destination and the source port that the client used. The quoted transport checksum stays:
/// it is often cut off, and receivers do not verify it.
#[inline(always)]
fn translate(packet: &mut Packet, quoted: &Quoted, flow: &Flow) -> bool {
    let (old_ports, new_ports) = (quoted.key.ports(), flow.reversed_ports());
    let moved = delta(quoted.key.dst, flow.src.addr);
    let stored = if packet.v6 {
        packet.store(quoted.l3 + ipv6::DST, &flow.src.addr, 0)
    } else {
        packet.store(quoted.l3 + ipv4::CHECK, &updated(quoted.check, moved), 0)
            && packet.store(quoted.l3 + ipv4::DST, &flow.src.addr.v4_word(), 0)
    };
    let address = if packet.v6 { moved } else { 0 };
    stored && finish(packet, quoted, address, old_ports, new_ports)
}

/// Writes the quotation's ports, and corrects the message's checksum for the ports and for `addresses`, which is 0 if a
/// header checksum of IPv4 makes up for the addresses.
#[inline(always)]
fn finish(packet: &mut Packet, quoted: &Quoted, addresses: u64, old_ports: u32, new_ports: u32) -> bool {
    if !packet.store(quoted.l4, &new_ports, 0) {
        return false;
    }
    let change = fold_32(addresses + delta_word(old_ports, new_ports));
    // SAFETY: a plain helper call on the context.
    unsafe { bpf_l4_csum_replace(packet.skb, packet.l4 + icmp::CHECK, 0, u64::from(change), 0) == 0 }
}

#[inline(always)]
fn quoted_v4(packet: &Packet, l3: u32) -> Option<Quoted> {
    let ip = packet.load::<ipv4::Header>(l3)?;
    let l4 = l3 + ip.len();
    Some(Quoted { key: ip.key(packet.load(l4)?), l3, l4, check: ip.check() })
}

#[inline(always)]
fn quoted_v6(packet: &Packet, l3: u32) -> Option<Quoted> {
    let ip = packet.load::<ipv6::Header>(l3)?;
    let l4 = l3 + ipv6::LEN;
    Some(Quoted { key: ip.key(packet.load(l4)?), l3, l4, check: 0 })
}

/// Offset of the packet that an ICMPv6 redirect quotes.
#[inline(always)]
fn redirected(packet: &Packet) -> Option<u32> {
    let mut at = packet.l4 + REDIRECT_LEN;
    for _ in 0..MAX_OPTIONS {
        let option = packet.load::<[u8; 2]>(at)?;
        if option[0] == OPTION_REDIRECTED_HEADER {
            return Some(at + icmp::LEN);
        }
        at += u32::from(option[1]) * 8;
    }
    None
}
