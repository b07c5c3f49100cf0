//! ICMP about translated flows. On its way to the client an error quotes the packet as it was behind the
//! translation, which the client never sent. Its quotation is translated back, so that path MTU discovery works
//! through a VIP and a closed port is refused at once. A redirect is dropped. An error that a client sends quotes a
//! reply of the VIP's: it goes to the backend, about the reply that the backend sent.

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_l4_csum_replace};
use lb_common::{Action, Flow, FlowKey};

use crate::frame::parse::{PROTO_ICMP, ipv4_key, ipv6_key};
use crate::frame::rewrite::{delta, fold_16, fold_32};
use crate::frame::{Headers, Packet};
use crate::maps;

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

/// A packet that a message quotes, where it is, and its tuple as it reads.
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

/// From a client, about a reply that it got. `false` where the kernel refused a write.
#[inline(always)]
pub fn of_client(packet: &mut Packet) -> bool {
    icmp_of_client(packet.skb, packet.headers) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn icmp_of_client(skb: *mut __sk_buff, headers: *mut Headers) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(headers) = (unsafe { headers.as_mut() }) else { return 1 };
    u32::from(about_reply(&mut Packet { skb, headers }))
}

#[inline(always)]
fn about_reply(packet: &mut Packet) -> bool {
    let Some(Quotation { packet: quoted, is_redirect: false }) = quotation(packet) else {
        return true;
    };
    let request = quoted.key.reversed();
    // Nobody speaks for another.
    if !packet.key.src.same(request.src)
        || !packet.key.dst.same(request.dst)
        || !maps::interesting(request.dst, request.dport, request.proto)
            && !maps::near_service(request.dst, request.dport)
    {
        return true;
    }
    let Some((flow, _)) = maps::flow(&request) else { return true };
    // What a pod says about its own reply stays with it.
    if flow.flags & Flow::REVERSE != 0 || flow.action != Action::Stack as u8 {
        return true;
    }
    if flow.dst.addr.same(request.dst) && flow.dst.port.word() == request.dport.word() {
        return true;
    }
    translate_to_backend(packet, &quoted, flow)
}

/// Gives the message the backend as its destination, and the quotation the backend as its source and the port that the
/// backend knows the client by.
#[inline(always)]
fn translate_to_backend(packet: &mut Packet, quoted: &Quoted, flow: &Flow) -> bool {
    let (vip, backend) = (quoted.key.src, flow.dst.addr);
    let old_ports = ports(quoted.key.sport.word(), quoted.key.dport.word());
    let new_ports = ports(flow.dst.port.word(), flow.src.port.word());
    let moved = delta(vip, backend);
    let stored = if packet.v6 {
        packet.store(quoted.l3 + 8, &backend, 0) && packet.store(packet.l3 + 24, &backend, 0)
    } else {
        let check = |old: u16| !fold_16(u64::from(!old) + u64::from(fold_32(moved)));
        let (inner, outer) = (check(quoted.check), check(packet.ip_check));
        let word = backend.v4_word();
        packet.store(quoted.l3 + 10, &inner, 0)
            && packet.store(quoted.l3 + 12, &word, 0)
            && packet.store(packet.l3 + 10, &outer, 0)
            && packet.store(packet.l3 + 16, &word, 0)
    };
    // ICMPv6 sums its own destination, too.
    let address = if packet.v6 { u64::from(fold_32(moved)) * 2 } else { 0 };
    stored && finish(packet, quoted, address, old_ports, new_ports)
}

/// A packet that a message quotes, and what the message is.
struct Quotation {
    packet: Quoted,
    is_redirect: bool,
}

#[inline(always)]
fn quotation(packet: &Packet) -> Option<Quotation> {
    let kind = packet.load::<u8>(packet.l4)?;
    let v4 = packet.key.proto == PROTO_ICMP;
    let is_redirect = kind == if v4 { ICMP_REDIRECT } else { ICMPV6_REDIRECT };
    let is_error = if v4 { is_one_of(kind, ICMP_ERRORS) } else { is_one_of(kind, ICMPV6_ERRORS) };
    let at = if is_redirect && !v4 {
        redirected(packet)?
    } else if is_redirect || is_error {
        packet.l4 + HEADER
    } else {
        return None;
    };
    let packet = if v4 { quoted_v4(packet, at) } else { quoted_v6(packet, at) }?;
    Some(Quotation { packet, is_redirect })
}

#[inline(always)]
fn message(packet: &mut Packet) -> Fate {
    let Some(Quotation { packet: quoted, is_redirect }) = quotation(packet) else { return Fate::Continue };
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
    let address = if packet.v6 { moved } else { 0 };
    stored && finish(packet, quoted, address, old_ports, new_ports)
}

/// Writes the quotation's ports, and what the message's checksum must make up for: them, and addresses where no header
/// checksum of IPv4 does.
#[inline(always)]
fn finish(packet: &mut Packet, quoted: &Quoted, addresses: u64, old_ports: u32, new_ports: u32) -> bool {
    if !packet.store(quoted.l4, &new_ports, 0) {
        return false;
    }
    let change = fold_32(addresses + u64::from(!old_ports) + u64::from(new_ports));
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
