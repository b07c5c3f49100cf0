//! Reads headers, once a packet.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use lb_common::{Addr, FlowKey, Port, Proto};

use super::{Bytes, ETH_LEN, Headers, Packet};

const ETH_P_IP: u16 = 0x0800_u16.to_be();
const ETH_P_IPV6: u16 = 0x86dd_u16.to_be();
const ETH_P_8021Q: u16 = 0x8100_u16.to_be();
const ETH_P_8021AD: u16 = 0x88a8_u16.to_be();
const VLAN_LEN: u32 = 4;
/// 802.1ad outside, 802.1Q inside.
const MAX_VLANS: u32 = 2;
/// RFC 8200 recommends fewer; beyond this a packet is not followed.
const MAX_EXTENSIONS: u32 = 6;

pub const PROTO_ICMP: u8 = 1;
pub const PROTO_ICMPV6: u8 = 58;

/// What a frame is.
#[derive(PartialEq, Eq, Clone, Copy)]
#[repr(u32)]
pub enum Parsed {
    /// TCP, UDP or SCTP with its ports: `key` is filled.
    Transport = 0,
    /// ICMP or ICMPv6: addresses and protocol are filled.
    Icmp = 1,
    /// A fragment of one of them: the tuple is not whole.
    Fragment = 2,
    /// More VLAN tags or extension headers than are followed.
    TooDeep = 3,
    /// Nothing that a Service can be about.
    Other = 4,
}

/// Reads the headers of a frame into `headers`, which is written whole. The common frame (no tag, no options,
/// linear) costs a few loads and no zeroing; every other one is read by helpers.
#[inline(always)]
pub fn headers(skb: *mut __sk_buff, headers: &mut MaybeUninit<Headers>) -> (Parsed, Packet<'_>) {
    if let Some(plain) = parse_plain(skb) {
        return (Parsed::Transport, Packet { skb, headers: headers.write(plain) });
    }
    let headers = headers.write(Headers::unread());
    let parsed = match parse_any(skb, headers) {
        0 => Parsed::Transport,
        1 => Parsed::Icmp,
        2 => Parsed::Fragment,
        3 => Parsed::TooDeep,
        _ => Parsed::Other,
    };
    (parsed, Packet { skb, headers })
}

/// Bytes of the linear part, or `None` where the frame ends before.
#[inline(always)]
fn peek<T: Bytes>(skb: *mut __sk_buff, offset: usize) -> Option<T> {
    // SAFETY: context fields that the verifier turns into packet pointers.
    let (data, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    let at = data + offset;
    if at + size_of::<T>() > end {
        return None;
    }
    // SAFETY: in bounds, by the line above. The target reads words at any address (the verifier refuses the
    // program where the machine cannot).
    Some(unsafe { *(at as *const T) })
}

/// TCP or UDP over a plain IPv4 or IPv6 header in a linear frame.
#[inline(always)]
fn parse_plain(skb: *mut __sk_buff) -> Option<Headers> {
    const L3: usize = ETH_LEN as usize;
    // EtherType at byte 12; version and length at 14; fragment offset at 20; protocol at 23.
    let head = peek::<[u16; 21]>(skb, 0)?;
    if head[6] == ETH_P_IP && head[7].to_be() >> 8 == 0x45 && head[10] & MORE_OR_OFFSET == 0 {
        let (proto, tcp_flags) = transport(skb, L3 + 20, (head[11].to_be() & 0xff) as u8)?;
        let src = Addr::from_v4_word(pair(head[13], head[14]));
        let dst = Addr::from_v4_word(pair(head[15], head[16]));
        return Some(Headers {
            key: FlowKey::from_words(src, dst, pair(head[17], head[18]), proto),
            l3: ETH_LEN,
            l4: ETH_LEN + 20,
            v6: false,
            tcp_flags,
            ip_check: head[12],
            l4_check: head[20],
            pad: 0,
        });
    }
    if head[6] == ETH_P_IPV6 {
        let ip = peek::<[u32; 10]>(skb, L3)?;
        let (proto, tcp_flags) = transport(skb, L3 + 40, (ip[1].to_be() >> 8) as u8)?;
        let l4 = peek::<[u16; 4]>(skb, L3 + 40)?;
        let src = Addr::from_words([ip[2], ip[3], ip[4], ip[5]]);
        let dst = Addr::from_words([ip[6], ip[7], ip[8], ip[9]]);
        // ::ffff:0:0/96 on the wire is nobody's: it would be taken for IPv4.
        if src.is_v4() || dst.is_v4() {
            return None;
        }
        return Some(Headers {
            key: FlowKey::from_words(src, dst, pair(l4[0], l4[1]), proto),
            l3: ETH_LEN,
            l4: ETH_LEN + 40,
            v6: true,
            tcp_flags,
            ip_check: 0,
            l4_check: l4[3],
            pad: 0,
        });
    }
    None
}

/// The protocol, if it is TCP or UDP, and TCP's flags.
#[inline(always)]
fn transport(skb: *mut __sk_buff, l4: usize, proto: u8) -> Option<(u8, u8)> {
    if proto == Proto::Tcp as u8 {
        let tcp = peek::<[u16; 10]>(skb, l4)?;
        Some((proto, (tcp[6].to_be() & 0xff) as u8))
    } else if proto == Proto::Udp as u8 {
        Some((proto, 0))
    } else {
        None
    }
}

/// `MF` and the fragment offset.
const MORE_OR_OFFSET: u16 = 0x3fff_u16.to_be();
const OFFSET: u16 = 0x1fff_u16.to_be();

#[inline(always)]
fn pair(first: u16, second: u16) -> u32 {
    u32::from(first) | u32::from(second) << 16
}

/// The tuple of an IPv4 header and the ports behind it.
#[inline(always)]
pub fn ipv4_key(ip: &[u16; 10], ports: [u16; 2]) -> FlowKey {
    let (src, dst) = (pair(ip[6], ip[7]), pair(ip[8], ip[9]));
    let proto = (ip[4].to_be() & 0xff) as u8;
    FlowKey::from_words(Addr::from_v4_word(src), Addr::from_v4_word(dst), pair(ports[0], ports[1]), proto)
}

/// The tuple of an IPv6 header, without extension headers, and the ports behind it.
#[inline(always)]
pub fn ipv6_key(ip: &[u32; 10], ports: [u16; 2]) -> FlowKey {
    let src = Addr::from_words([ip[2], ip[3], ip[4], ip[5]]);
    let dst = Addr::from_words([ip[6], ip[7], ip[8], ip[9]]);
    FlowKey::from_words(src, dst, pair(ports[0], ports[1]), (ip[1].to_be() >> 8) as u8)
}

/// Reads any frame by helpers. Gives a number of [`Parsed`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn parse_any(skb: *mut __sk_buff, headers: *mut Headers) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(headers) = (unsafe { headers.as_mut() }) else { return Parsed::Other as u32 };
    parse_frame(&mut Packet { skb, headers }) as u32
}

#[inline(always)]
fn parse_frame(packet: &mut Packet) -> Parsed {
    let mut offset = ETH_LEN - 2;
    let mut tags = 0;
    let ethertype = loop {
        let Some(ethertype) = packet.load::<u16>(offset) else { return Parsed::Other };
        if ethertype != ETH_P_8021Q && ethertype != ETH_P_8021AD {
            break ethertype;
        }
        if tags == MAX_VLANS {
            return Parsed::TooDeep;
        }
        tags += 1;
        offset += VLAN_LEN;
    };
    packet.l3 = offset + 2;
    match ethertype {
        ETH_P_IP => parse_v4(packet),
        ETH_P_IPV6 => parse_v6(packet),
        _ => Parsed::Other,
    }
}

#[inline(always)]
fn parse_v4(packet: &mut Packet) -> Parsed {
    let Some(ip) = packet.load::<[u16; 10]>(packet.l3) else { return Parsed::Other };
    let header = u32::from(ip[0].to_be() >> 8 & 0xf) * 4;
    if ip[0].to_be() >> 12 != 4 || header < 20 {
        return Parsed::Other;
    }
    packet.v6 = false;
    packet.key.proto = (ip[4].to_be() & 0xff) as u8;
    packet.key.src = Addr::from_v4_word(pair(ip[6], ip[7]));
    packet.key.dst = Addr::from_v4_word(pair(ip[8], ip[9]));
    packet.ip_check = ip[5];
    packet.l4 = packet.l3 + header;
    parse_piece(packet, ip[3] & MORE_OR_OFFSET != 0, ip[3] & OFFSET == 0)
}

#[inline(always)]
fn parse_v6(packet: &mut Packet) -> Parsed {
    let Some(ip) = packet.load::<[u32; 10]>(packet.l3) else { return Parsed::Other };
    if ip[0].to_be() >> 28 != 6 {
        return Parsed::Other;
    }
    packet.v6 = true;
    packet.key.src = Addr::from_words([ip[2], ip[3], ip[4], ip[5]]);
    packet.key.dst = Addr::from_words([ip[6], ip[7], ip[8], ip[9]]);
    if packet.key.src.is_v4() || packet.key.dst.is_v4() {
        return Parsed::Other;
    }
    let mut next = (ip[1].to_be() >> 8) as u8;
    packet.l4 = packet.l3 + 40;
    for _ in 0..MAX_EXTENSIONS {
        match next {
            // Hop-by-hop, routing, destination options, mobility (RFC 6275), HIP, shim6: length in 8 bytes.
            0 | 43 | 60 | 135 | 139 | 140 => {
                let Some(option) = packet.load::<[u8; 2]>(packet.l4) else { return Parsed::Other };
                next = option[0];
                packet.l4 += (u32::from(option[1]) + 1) * 8;
            }
            // Authentication: length in 4 bytes, less two.
            51 => {
                let Some(option) = packet.load::<[u8; 2]>(packet.l4) else { return Parsed::Other };
                next = option[0];
                packet.l4 += (u32::from(option[1]) + 2) * 4;
            }
            // Fragment: an atomic one (RFC 6946) is a whole packet.
            44 => {
                let Some(option) = packet.load::<[u16; 2]>(packet.l4) else { return Parsed::Other };
                next = (option[0].to_be() >> 8) as u8;
                packet.l4 += 8;
                let place = option[1].to_be();
                if place & 0xfff9 != 0 {
                    packet.key.proto = next;
                    return parse_piece(packet, true, place & 0xfff8 == 0);
                }
            }
            _ => {
                packet.key.proto = next;
                return parse_l4(packet);
            }
        }
    }
    Parsed::TooDeep
}

/// A whole packet, or a piece of one: the first piece has the ports, and so can be counted.
#[inline(always)]
fn parse_piece(packet: &mut Packet, piece: bool, first: bool) -> Parsed {
    if !piece {
        return parse_l4(packet);
    }
    if first {
        parse_l4(packet);
    }
    Parsed::Fragment
}

#[inline(always)]
fn parse_l4(packet: &mut Packet) -> Parsed {
    match packet.key.proto {
        6 => {
            let Some(tcp) = packet.load::<[u16; 10]>(packet.l4) else { return Parsed::Other };
            packet.tcp_flags = (tcp[6].to_be() & 0xff) as u8;
        }
        17 => {}
        // Its checksum covers no address, so none is to be changed. The common header is as long as this.
        132 => {
            let Some(sctp) = packet.load::<[u16; 6]>(packet.l4) else { return Parsed::Other };
            packet.key.sport = Port::from_word(sctp[0]);
            packet.key.dport = Port::from_word(sctp[1]);
            packet.l4_check = 0;
            return Parsed::Transport;
        }
        PROTO_ICMP | PROTO_ICMPV6 => return Parsed::Icmp,
        _ => return Parsed::Other,
    }
    let Some(l4) = packet.load::<[u16; 4]>(packet.l4) else { return Parsed::Other };
    packet.key.sport = Port::from_word(l4[0]);
    packet.key.dport = Port::from_word(l4[1]);
    packet.l4_check = l4[3];
    Parsed::Transport
}
