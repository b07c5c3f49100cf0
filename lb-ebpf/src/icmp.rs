//! ICMP about translated flows.

use lb_common::{Addr, Flow, FlowKey, Port};

use crate::maps;
use crate::packet::Packet;

const ICMP_REDIRECT: u8 = 5;
const ICMPV6_REDIRECT: u8 = 137;
/// RFC 4861 4.6.3.
const OPTION_REDIRECTED_HEADER: u8 = 4;
const MAX_OPTIONS: u32 = 4;

/// Is this a redirect about a flow of ours? The host sends one when it routes a translated packet back into
/// the bridge that it came from; the client would learn a route for an address it never spoke to.
#[inline(never)]
pub fn is_redirect_of_ours(packet: &Packet) -> bool {
    let Some(kind) = packet.load::<u8>(packet.l4) else { return false };
    let inner = match kind {
        ICMP_REDIRECT if !packet.v6 => inner_v4(packet, packet.l4 + 8),
        ICMPV6_REDIRECT if packet.v6 => redirected(packet).and_then(|at| inner_v6(packet, at)),
        _ => None,
    };
    let Some(key) = inner else { return false };
    if !maps::interesting(key.dst, key.dport, key.proto) {
        return false;
    }
    match maps::flow(&key.reversed()) {
        Some((flow, _)) => flow.flags & Flow::REVERSE != 0 && flow.service != Flow::NONE,
        None => false,
    }
}

#[inline(always)]
fn inner_v4(packet: &Packet, at: u32) -> Option<FlowKey> {
    let ip = packet.load::<[u16; 10]>(at)?;
    let ports = packet.load::<[u16; 2]>(at + u32::from(ip[0].to_be() >> 8 & 0xf) * 4)?;
    let word = |i: usize| u32::from(ip[i]) | u32::from(ip[i + 1]) << 16;
    Some(FlowKey {
        src: Addr::from_v4_word(word(6)),
        dst: Addr::from_v4_word(word(8)),
        sport: Port::from_word(ports[0]),
        dport: Port::from_word(ports[1]),
        zone: 0,
        proto: (ip[4].to_be() & 0xff) as u8,
        pad: 0,
    })
}

/// Offset of the packet that an ICMPv6 redirect quotes.
#[inline(always)]
fn redirected(packet: &Packet) -> Option<u32> {
    let mut at = packet.l4 + 40;
    for _ in 0..MAX_OPTIONS {
        let option = packet.load::<[u8; 2]>(at)?;
        if option[0] == OPTION_REDIRECTED_HEADER {
            return Some(at + 8);
        }
        at += u32::from(option[1]) * 8;
    }
    None
}

#[inline(always)]
fn inner_v6(packet: &Packet, at: u32) -> Option<FlowKey> {
    let ip = packet.load::<[u32; 10]>(at)?;
    let ports = packet.load::<[u16; 2]>(at + 40)?;
    Some(FlowKey {
        src: Addr::from_words([ip[2], ip[3], ip[4], ip[5]]),
        dst: Addr::from_words([ip[6], ip[7], ip[8], ip[9]]),
        sport: Port::from_word(ports[0]),
        dport: Port::from_word(ports[1]),
        zone: 0,
        proto: (ip[1].to_be() >> 8) as u8,
        pad: 0,
    })
}
