//! Turns a datagram into the "port unreachable" about it (RFC 792, RFC 4443): a connected socket sees ECONNREFUSED.
//!
//! The message is written over the datagram. If the datagram had a checksum that is still to be filled in
//! (`CHECKSUM_PARTIAL`), and the link has no checksum offload, the kernel writes into the message's unused word later:
//! over IPv4 0xffff, which is 0 in one's complement; over IPv6 the pseudo header's sum, so that the pod drops the
//! message and waits. A veth never does so, a tap only without `TUN_F_CSUM`.

use aya_ebpf::bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::bpf_skb_change_tail;
use lb_common::checksum::{fold_16, sum};

use crate::frame::layout::{icmp, ipv4, ipv6, pair};
use crate::frame::{Headers, Packet};
use crate::global::global;

const RECOMPUTE: u64 = BPF_F_RECOMPUTE_CSUM as u64;
/// Bytes that are quoted of the datagram behind its IP header: enough to find the socket.
const QUOTED: u32 = 8;
const HOPS: u32 = 64;

global!(
    /// Turns the datagram into the error about it. Returns false if the kernel refused, or if the datagram has IP
    /// options or extension headers: then there is no answer.
    pub fn turn_into_error(skb: *mut __sk_buff, headers: &mut Headers) -> bool = turn_datagram, null: false
);

#[inline(always)]
fn turn_datagram(skb: *mut __sk_buff, headers: &mut Headers) -> bool {
    let packet = &mut Packet { skb, headers };
    if packet.v6 { turn_v6(packet) } else { turn_v4(packet) }
}

#[inline(always)]
fn turn_v4(packet: &mut Packet) -> bool {
    if packet.l4 != packet.l3 + ipv4::LEN {
        return false;
    }
    let Some(ip) = packet.load::<[u32; 5]>(packet.l3) else { return false };
    let Some(l4) = packet.load::<[u32; 2]>(packet.l4) else { return false };
    let kind = 0x0303_0000_u32.to_be();
    let sum = u64::from(kind) + sum(&ip) + sum(&l4);
    let check = pair(0, !fold_16(sum));
    let mut header = [
        (0x4500_0000 | (ipv4::LEN + icmp::LEN + ipv4::LEN + QUOTED)).to_be(),
        // The message is never to be fragmented, and so needs no id (RFC 6864).
        0x4000_u32.to_be(),
        (HOPS << 24 | u32::from(icmp::V4) << 16).to_be(),
        ip[4],
        ip[3],
    ];
    header[2] |= pair(0, !fold_16(self::sum(&header)));
    resize(packet, ipv4::LEN)
        && packet.store(packet.l3, &header, RECOMPUTE)
        && packet.store(packet.l4, &[kind | check, 0], RECOMPUTE)
        && packet.store(packet.l4 + icmp::LEN, &ip, RECOMPUTE)
        && packet.store(packet.l4 + icmp::LEN + ipv4::LEN, &l4, RECOMPUTE)
}

#[inline(always)]
fn turn_v6(packet: &mut Packet) -> bool {
    const LEN: u32 = icmp::LEN + ipv6::LEN + QUOTED;
    if packet.l4 != packet.l3 + ipv6::LEN {
        return false;
    }
    let Some(ip) = packet.load::<[u32; 10]>(packet.l3) else { return false };
    let Some(l4) = packet.load::<[u32; 2]>(packet.l4) else { return false };
    let kind = 0x0104_0000_u32.to_be();
    // The addresses change places, so that the pseudo header has the addresses that are quoted.
    let addresses = sum(&ip) - u64::from(ip[0]) - u64::from(ip[1]);
    let pseudo = addresses + u64::from((LEN + u32::from(icmp::V6)).to_be());
    let sum = u64::from(kind) + pseudo + sum(&ip) + sum(&l4);
    let check = pair(0, !fold_16(sum));
    let header = [
        0x6000_0000_u32.to_be(),
        (LEN << 16 | u32::from(icmp::V6) << 8 | HOPS).to_be(),
        ip[6],
        ip[7],
        ip[8],
        ip[9],
        ip[2],
        ip[3],
        ip[4],
        ip[5],
    ];
    resize(packet, ipv6::LEN)
        && packet.store(packet.l3, &header, RECOMPUTE)
        && packet.store(packet.l4, &[kind | check, 0], RECOMPUTE)
        && packet.store(packet.l4 + icmp::LEN, &ip, RECOMPUTE)
        && packet.store(packet.l4 + icmp::LEN + ipv6::LEN, &l4, RECOMPUTE)
}

/// Makes the frame as long as the message behind an IP header of this length.
#[inline(always)]
fn resize(packet: &mut Packet, ip: u32) -> bool {
    // SAFETY: a plain helper call on the context.
    unsafe { bpf_skb_change_tail(packet.skb, packet.l4 + icmp::LEN + ip + QUOTED, 0) == 0 }
}
