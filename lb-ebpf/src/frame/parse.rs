//! Reads headers, once per packet.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use lb_common::{Port, Proto, wire_enum};

use super::headers::{Headers, Span};
use super::layout::{eth, halves, icmp, ipv4, ipv6, l4, sctp, tcp};
use super::packet::Packet;
use super::plain;
use crate::global::{answer, global};

/// 802.1ad outside, 802.1Q inside.
const MAX_VLANS: u32 = 2;
/// RFC 8200 recommends fewer; a packet with more is not followed.
const MAX_EXTENSIONS: u32 = 6;

wire_enum! {
    /// What a frame is.
    pub enum Parsed: u32 {
        /// TCP, UDP or SCTP with its ports: `key` is filled.
        Transport = 0,
        /// ICMP or ICMPv6: addresses and protocol are filled.
        Icmp = 1,
        /// A fragment, of whichever protocol: the tuple may be incomplete.
        Fragment = 2,
        /// More VLAN tags or extension headers than are followed.
        TooDeep = 3,
        /// No traffic that concerns a Service.
        Other = 4,
    }
}

answer!(Parsed, Other);

/// Reads the headers of a frame into `headers`, which is written whole. The common frame costs a few loads and no
/// zeroing; every other frame is read by helpers.
#[inline(always)]
pub fn headers(skb: *mut __sk_buff, headers: &mut MaybeUninit<Headers>) -> (Parsed, Packet<'_>) {
    if let Some(plain) = plain::parse(skb) {
        return (Parsed::Transport, Packet { skb, headers: headers.write(plain) });
    }
    let headers = headers.write(Headers::unread());
    let parsed = parse_any(skb, headers);
    (parsed, Packet { skb, headers })
}

global!(
    /// Reads any frame by helpers.
    fn parse_any(skb: *mut __sk_buff, headers: &mut Headers) -> Parsed = parse_frame, null: Parsed::Other
);

#[inline(always)]
fn parse_frame(skb: *mut __sk_buff, headers: &mut Headers) -> Parsed {
    let packet = &mut Packet { skb, headers };
    let mut offset = eth::TYPE;
    let mut tags = 0;
    let ethertype = loop {
        let Some(ethertype) = packet.load::<u16>(offset) else { return Parsed::Other };
        if ethertype != eth::VLAN && ethertype != eth::SERVICE_VLAN {
            break ethertype;
        }
        if tags == MAX_VLANS {
            return Parsed::TooDeep;
        }
        tags += 1;
        offset += eth::VLAN_LEN;
    };
    packet.l3 = offset + 2;
    match ethertype {
        eth::IP => parse_v4(packet),
        eth::IPV6 => parse_v6(packet),
        _ => Parsed::Other,
    }
}

#[inline(always)]
fn parse_v4(packet: &mut Packet) -> Parsed {
    let Some(ip) = packet.load::<ipv4::Header>(packet.l3) else { return Parsed::Other };
    if !ip.is_v4() || ip.len() < ipv4::LEN {
        return Parsed::Other;
    }
    packet.v6 = false;
    packet.key.proto = ip.proto();
    packet.key.src = ip.src();
    packet.key.dst = ip.dst();
    packet.ip_check = ip.check();
    packet.l4 = packet.l3 + ip.len();
    parse_piece(packet, ip.total_len(), ip.is_fragment(), ip.is_first())
}

#[inline(always)]
fn parse_v6(packet: &mut Packet) -> Parsed {
    let Some(ip) = packet.load::<ipv6::Header>(packet.l3) else { return Parsed::Other };
    if !ip.is_v6() {
        return Parsed::Other;
    }
    packet.v6 = true;
    packet.key.src = ip.src();
    packet.key.dst = ip.dst();
    if ip.is_mapped() {
        return Parsed::Other;
    }
    let len = match ip.payload_len() {
        0 => 0,
        len => ipv6::LEN + len,
    };
    let mut next = ip.next();
    packet.l4 = packet.l3 + ipv6::LEN;
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
                    return parse_piece(packet, len, true, place & 0xfff8 == 0);
                }
            }
            _ => {
                packet.key.proto = next;
                return parse_l4(packet, len);
            }
        }
    }
    Parsed::TooDeep
}

/// Parses a whole packet, or a fragment. The first fragment has the ports, so that it can be counted.
#[inline(always)]
fn parse_piece(packet: &mut Packet, ip_len: u32, piece: bool, first: bool) -> Parsed {
    if !piece {
        return parse_l4(packet, ip_len);
    }
    if first {
        parse_l4(packet, ip_len);
    }
    Parsed::Fragment
}

/// `ip_len` is the length of the IP packet in bytes, 0 if it is not known.
#[inline(always)]
fn parse_l4(packet: &mut Packet, ip_len: u32) -> Parsed {
    match packet.key.proto {
        icmp::V4 | icmp::V6 => return Parsed::Icmp,
        proto if proto == Proto::Tcp.number() => {
            let Some(tcp) = packet.load::<tcp::Header>(packet.l4) else { return Parsed::Other };
            packet.tcp_flags = tcp.flags();
            // From the length of the packet, because a short frame is padded.
            let end = packet.l3 + ip_len;
            packet.span = Span::of(&tcp, end.saturating_sub(packet.l4));
        }
        proto if proto == Proto::Udp.number() => {}
        // The checksum of SCTP covers no address, so that it does not change.
        proto if proto == Proto::Sctp.number() => {
            let Some([ports, ..]) = packet.load::<[u32; sctp::LEN as usize / 4]>(packet.l4) else {
                return Parsed::Other;
            };
            set_ports(packet, ports);
            packet.l4_check = 0;
            return Parsed::Transport;
        }
        _ => return Parsed::Other,
    }
    let Some(l4) = packet.load::<l4::Start>(packet.l4) else { return Parsed::Other };
    set_ports(packet, l4.ports());
    packet.l4_check = l4.udp_check();
    Parsed::Transport
}

#[inline(always)]
fn set_ports(packet: &mut Packet, ports: u32) {
    let [source, destination] = halves(ports);
    packet.key.sport = Port::from_word(source);
    packet.key.dport = Port::from_word(destination);
}
