//! ICMP about translated flows, on its way to the client: an error quotes the packet as it was behind the
//! translation, which the client never sent. Its quotation is translated back, so that path MTU discovery works
//! through a VIP and a closed port is refused at once. A redirect is dropped.

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_l4_csum_replace};
use lb_common::{Flow, FlowKey};

use crate::maps;
use crate::packet::{Headers, Packet};
use crate::parse::{PROTO_ICMP, ipv4_key, ipv6_key};
use crate::rewrite::{delta, fold_16, fold_32};

/// Destination unreachable, source quench, time exceeded, parameter problem (RFC 792).
const ICMP_ERRORS: [u8; 4] = [3, 4, 11, 12];
/// Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443).
const ICMPV6_ERRORS: [u8; 4] = [1, 2, 3, 4];
const ICMP_REDIRECT: u8 = 5;
const ICMPV6_REDIRECT: u8 = 137;
/// Length of the header in front of the quotation, and where its checksum is.
const HEADER: u32 = 8;
const CHECK: u32 = 2;
/// RFC 4861 4.6.3.
const OPTION_REDIRECTED_HEADER: u8 = 4;
const MAX_OPTIONS: u32 = 4;

/// What becomes of the message.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Fate {
    /// Not about a flow of ours, or translated.
    Continue = 0,
    /// A redirect: the host sends one when it routes a translated packet back into the bridge that it came
    /// from, and the client would learn a route for an address that it never spoke to.
    Redirect = 1,
    /// The kernel refused a write.
    Failed = 2,
}

/// A packet that a message quotes.
struct Quoted {
    key: FlowKey,
    l3: u32,
    l4: u32,
    /// IPv4 header checksum.
    check: u16,
}

#[inline(always)]
pub fn inspect(packet: &mut Packet) -> Fate {
    match inspect_icmp(packet.skb, packet.headers) {
        0 => Fate::Continue,
        1 => Fate::Redirect,
        _ => Fate::Failed,
    }
}

/// Gives a number of [`Fate`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn inspect_icmp(skb: *mut __sk_buff, headers: *mut Headers) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(headers) = (unsafe { headers.as_mut() }) else { return Fate::Continue as u32 };
    message(&mut Packet { skb, headers }) as u32
}

#[inline(always)]
fn message(packet: &mut Packet) -> Fate {
    let Some(kind) = packet.load::<u8>(packet.l4) else { return Fate::Continue };
    let v4 = packet.key.proto == PROTO_ICMP;
    let is_redirect = kind == if v4 { ICMP_REDIRECT } else { ICMPV6_REDIRECT };
    let is_error = if v4 { is_one_of(kind, ICMP_ERRORS) } else { is_one_of(kind, ICMPV6_ERRORS) };
    let at = if is_redirect && !v4 {
        redirected(packet)
    } else if is_redirect || is_error {
        Some(packet.l4 + HEADER)
    } else {
        None
    };
    let Some(at) = at else { return Fate::Continue };
    let Some(quoted) = (if v4 { quoted_v4(packet, at) } else { quoted_v6(packet, at) }) else {
        return Fate::Continue;
    };
    if !maps::interesting(quoted.key.dst, quoted.key.dport, quoted.key.proto) {
        return Fate::Continue;
    }
    let Some((flow, _)) = maps::flow(&quoted.key.reversed()) else { return Fate::Continue };
    if flow.flags & Flow::REVERSE == 0 {
        return Fate::Continue;
    }
    if is_redirect {
        return if flow.service != Flow::NONE { Fate::Redirect } else { Fate::Continue };
    }
    if translate(packet, &quoted, flow) { Fate::Continue } else { Fate::Failed }
}

#[inline(always)]
fn is_one_of(kind: u8, kinds: [u8; 4]) -> bool {
    kind == kinds[0] || kind == kinds[1] || kind == kinds[2] || kind == kinds[3]
}

/// Gives the quotation the destination and the source port that the client used. Its transport checksum stays:
/// often it is cut off, and nobody verifies it.
#[inline(always)]
fn translate(packet: &mut Packet, quoted: &Quoted, flow: &Flow) -> bool {
    let old_ports = ports(quoted.key.sport.word(), quoted.key.dport.word());
    let new_ports = ports(flow.dst.port.word(), flow.src.port.word());
    let moved = delta(quoted.key.dst, flow.src.addr);
    let stored = if packet.v6 {
        packet.store(quoted.l3 + 24, &flow.src.addr, 0)
    } else {
        let check = !fold_16(u64::from(!quoted.check) + u64::from(fold_32(moved)));
        packet.store(quoted.l3 + 10, &check, 0) && packet.store(quoted.l3 + 16, &flow.src.addr.v4_word(), 0)
    };
    if !stored || !packet.store(quoted.l4, &new_ports, 0) {
        return false;
    }
    // What the message's checksum must make up for. IPv4's own header checksum makes up for the address.
    let address = if packet.v6 { moved } else { 0 };
    let change = fold_32(address + u64::from(!old_ports) + u64::from(new_ports));
    // SAFETY: a plain helper call on the context.
    unsafe { bpf_l4_csum_replace(packet.skb, packet.l4 + CHECK, 0, u64::from(change), 0) == 0 }
}

#[inline(always)]
fn ports(source: u16, destination: u16) -> u32 {
    u32::from(source) | u32::from(destination) << 16
}

#[inline(always)]
fn quoted_v4(packet: &Packet, l3: u32) -> Option<Quoted> {
    let ip = packet.load::<[u16; 10]>(l3)?;
    let l4 = l3 + u32::from(ip[0].to_be() >> 8 & 0xf) * 4;
    let ports = packet.load::<[u16; 2]>(l4)?;
    Some(Quoted { key: ipv4_key(&ip, ports), l3, l4, check: ip[5] })
}

#[inline(always)]
fn quoted_v6(packet: &Packet, l3: u32) -> Option<Quoted> {
    let ip = packet.load::<[u32; 10]>(l3)?;
    let l4 = l3 + 40;
    let ports = packet.load::<[u16; 2]>(l4)?;
    Some(Quoted { key: ipv6_key(&ip, ports), l3, l4, check: 0 })
}

/// Offset of the packet that an ICMPv6 redirect quotes.
#[inline(always)]
fn redirected(packet: &Packet) -> Option<u32> {
    let mut at = packet.l4 + 40;
    for _ in 0..MAX_OPTIONS {
        let option = packet.load::<[u8; 2]>(at)?;
        if option[0] == OPTION_REDIRECTED_HEADER {
            return Some(at + HEADER);
        }
        at += u32::from(option[1]) * 8;
    }
    None
}
