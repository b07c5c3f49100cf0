//! Turns a datagram into the "port unreachable" about it (RFC 792, RFC 4443): a socket that is connected sees
//! ECONNREFUSED.
//!
//! The message is written over the datagram. Where that had a checksum to be filled in by somebody later
//! (`CHECKSUM_PARTIAL`), this writes 0xffff into the message's unused word then: the same in one's complement.

use aya_ebpf::bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::bpf_skb_change_tail;

use crate::frame::parse::{PROTO_ICMP, PROTO_ICMPV6};
use crate::frame::rewrite::fold_16;
use crate::frame::{Headers, Packet};

const RECOMPUTE: u64 = BPF_F_RECOMPUTE_CSUM as u64;
const HEADER: u32 = 8;
/// What is quoted of the datagram behind its IP header: enough to find the socket by.
const QUOTED: u32 = 8;
const HOPS: u32 = 64;

/// `false` where the kernel refused, or the datagram has IP options or extension headers: then it is not answered.
#[inline(always)]
pub fn turn(packet: &mut Packet) -> bool {
    turn_into_error(packet.skb, packet.headers) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn turn_into_error(skb: *mut __sk_buff, headers: *mut Headers) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(headers) = (unsafe { headers.as_mut() }) else { return 0 };
    let packet = &mut Packet { skb, headers };
    u32::from(if packet.v6 { turn_v6(packet) } else { turn_v4(packet) })
}

#[inline(always)]
fn turn_v4(packet: &mut Packet) -> bool {
    const IP: u32 = 20;
    if packet.l4 != packet.l3 + IP {
        return false;
    }
    let Some(ip) = packet.load::<[u32; 5]>(packet.l3) else { return false };
    let Some(l4) = packet.load::<[u32; 2]>(packet.l4) else { return false };
    let kind = 0x0303_0000_u32.to_be();
    let sum = u64::from(kind) + sum(&ip) + sum(&l4);
    let check = u32::from_ne_bytes(pack([0, !fold_16(sum)]));
    let mut header = [
        (0x4500_0000 | (IP + HEADER + IP + QUOTED)).to_be(),
        // Never to be fragmented, so it needs no id (RFC 6864).
        0x4000_u32.to_be(),
        (HOPS << 24 | u32::from(PROTO_ICMP) << 16).to_be(),
        ip[4],
        ip[3],
    ];
    header[2] |= u32::from_ne_bytes(pack([0, !fold_16(self::sum(&header))]));
    resize(packet, IP)
        && packet.store(packet.l3, &header, RECOMPUTE)
        && packet.store(packet.l4, &[kind | check, 0], RECOMPUTE)
        && packet.store(packet.l4 + HEADER, &ip, RECOMPUTE)
        && packet.store(packet.l4 + HEADER + IP, &l4, RECOMPUTE)
}

#[inline(always)]
fn turn_v6(packet: &mut Packet) -> bool {
    const IP: u32 = 40;
    const LEN: u32 = HEADER + IP + QUOTED;
    if packet.l4 != packet.l3 + IP {
        return false;
    }
    let Some(ip) = packet.load::<[u32; 10]>(packet.l3) else { return false };
    let Some(l4) = packet.load::<[u32; 2]>(packet.l4) else { return false };
    let kind = 0x0104_0000_u32.to_be();
    // The addresses change places, so that those of the pseudo header are those that are quoted.
    let addresses = sum(&ip) - u64::from(ip[0]) - u64::from(ip[1]);
    let pseudo = addresses + u64::from((LEN + u32::from(PROTO_ICMPV6)).to_be());
    let sum = u64::from(kind) + pseudo + sum(&ip) + sum(&l4);
    let check = u32::from_ne_bytes(pack([0, !fold_16(sum)]));
    let header = [
        0x6000_0000_u32.to_be(),
        (LEN << 16 | u32::from(PROTO_ICMPV6) << 8 | HOPS).to_be(),
        ip[6],
        ip[7],
        ip[8],
        ip[9],
        ip[2],
        ip[3],
        ip[4],
        ip[5],
    ];
    resize(packet, IP)
        && packet.store(packet.l3, &header, RECOMPUTE)
        && packet.store(packet.l4, &[kind | check, 0], RECOMPUTE)
        && packet.store(packet.l4 + HEADER, &ip, RECOMPUTE)
        && packet.store(packet.l4 + HEADER + IP, &l4, RECOMPUTE)
}

/// Makes the frame as long as the message is, behind an IP header of that length.
#[inline(always)]
fn resize(packet: &mut Packet, ip: u32) -> bool {
    // SAFETY: a plain helper call on the context.
    unsafe { bpf_skb_change_tail(packet.skb, packet.l4 + HEADER + ip + QUOTED, 0) == 0 }
}

#[inline(always)]
fn sum<const N: usize>(words: &[u32; N]) -> u64 {
    let mut sum = 0;
    for word in words {
        sum += u64::from(*word);
    }
    sum
}

/// Two halves of a word as they lie in the frame.
#[inline(always)]
fn pack([first, second]: [u16; 2]) -> [u8; 4] {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    [a, b, c, d]
}
