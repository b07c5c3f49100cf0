//! Turns a segment into a RST, as RFC 9293 3.5.2 says, and tells the far end of a connection that it is over.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM},
    helpers::{bpf_clone_redirect, bpf_l4_csum_replace, bpf_skb_change_tail},
};
use lb_common::checksum::{delta_word, fold_16, sum, updated};
use lb_common::{Flow, Proto};

use crate::frame::layout::{eth, halves, ipv4, ipv6, tcp};
use crate::frame::{Headers, Packet, rewrite};
use crate::global::global;

const RECOMPUTE: u64 = BPF_F_RECOMPUTE_CSUM as u64;

/// Tells the backend of a segment's flow that its client is gone: a backend that left the Service may live on, and
/// would wait for hours. A copy of the segment becomes a RST and enters by the client's link as if the client had sent
/// it, past all programs that look at the client's packets there. The segment itself has changed afterwards, and must
/// be turned into a RST ([`turn_into_reset`]) or dropped.
#[inline(always)]
pub fn tell_backend(packet: &mut Packet, flow: &Flow) {
    // A hairpin's backend is its client.
    if !flow.is_hairpin() {
        send_reset(packet.skb, packet.headers, flow);
    }
}

global!(
    fn send_reset(skb: *mut __sk_buff, headers: &mut Headers, flow: &Flow) -> bool = reset_backend, null: false
);

#[inline(always)]
fn reset_backend(skb: *mut __sk_buff, headers: &mut Headers, flow: &Flow) -> bool {
    let packet = &mut Packet { skb, headers };
    rewrite::as_flow_says(packet, flow) && set_reset_flag(packet) && send_copy(packet, flow.mac)
}

/// A RST may have a payload (RFC 9293 3.10.7.4), so that nothing but the flags has to change.
#[inline(always)]
fn set_reset_flag(packet: &mut Packet) -> bool {
    const OTHERS: u16 = (tcp::SYN | tcp::FIN | tcp::PSH) as u16;
    let at = packet.l4 + tcp::OFFSET_AND_FLAGS;
    let Some(old) = packet.load::<u16>(at) else { return false };
    let new = (old.to_be() & !OTHERS | u16::from(tcp::RST)).to_be();
    fix_check(packet, u64::from(old), u64::from(new), 2) && packet.store(at, &new, 0)
}

#[inline(always)]
fn fix_check(packet: &Packet, old: u64, new: u64, size: u64) -> bool {
    // SAFETY: a plain helper call on the context.
    unsafe { bpf_l4_csum_replace(packet.skb, packet.l4 + tcp::CHECK, old, new, size) == 0 }
}

/// Sends a copy into the link. `mac`, if it was learned, is the destination of the flow's packets that bypass the
/// host's stack.
#[inline(always)]
fn send_copy(packet: &mut Packet, mac: [u8; 6]) -> bool {
    let Some(original) = packet.load::<[u8; 6]>(eth::DST) else { return false };
    if mac != [0; 6] && !packet.send_to_mac(mac) {
        return false;
    }
    // SAFETY: a plain helper call on the context.
    let sent = unsafe { bpf_clone_redirect(packet.skb, packet.ifindex(), u64::from(BPF_F_INGRESS)) == 0 };
    packet.store(eth::DST, &original, 0) && sent
}

global!(
    /// Turns the segment into its own RST. Returns false if the kernel refused.
    pub fn turn_into_reset(skb: *mut __sk_buff, headers: &mut Headers) -> bool = turn_tcp, null: false
);

#[inline(always)]
fn turn_tcp(skb: *mut __sk_buff, headers: &mut Headers) -> bool {
    let packet = &mut Packet { skb, headers };
    let Some(partial) = checksum_is_partial(packet) else { return false };
    let Some(old) = packet.load::<tcp::Header>(packet.l4) else { return false };
    let at = if packet.v6 { ipv6::PAYLOAD_LEN } else { ipv4::TOTAL_LEN };
    let Some(old_len) = packet.load::<u16>(packet.l3 + at) else { return false };
    let header_len = packet.l4 - packet.l3;
    let mut reset = reset_for(packet, &old, old_len, header_len);
    reset.set_check(checksum(packet, &reset, partial));

    // SAFETY: a plain helper call on the context.
    if unsafe { bpf_skb_change_tail(packet.skb, packet.l4 + tcp::LEN, 0) } != 0 {
        return false;
    }
    packet.store(packet.l4, reset.words(), RECOMPUTE) && turn_ip(packet, old_len, header_len)
}

/// The RST that answers a segment, without its checksum.
#[inline(always)]
fn reset_for(packet: &Packet, old: &tcp::Header, old_len: u16, header_len: u32) -> tcp::Header {
    let ports = packet.key.reversed().ports();
    if packet.tcp_flags & tcp::ACK != 0 {
        return tcp::Header::new(ports, old.ack(), 0, tcp::RST);
    }
    let all = u32::from(old_len.to_be()) + if packet.v6 { ipv6::LEN } else { 0 };
    let payload = all.wrapping_sub(header_len).wrapping_sub(old.len()) & 0xffff;
    let phantom = u32::from(packet.tcp_flags & tcp::SYN != 0) + u32::from(packet.tcp_flags & tcp::FIN != 0);
    let ack = old.seq().to_be().wrapping_add(payload + phantom).to_be();
    tcp::Header::new(ports, 0, ack, tcp::RST | tcp::ACK)
}

/// What the checksum field holds: the pseudo header's sum if the rest is still to be filled in, otherwise the checksum.
/// Source and destination change places, which leaves the pseudo header's sum as it is. The words that make an IPv4
/// address v4-mapped are 0 in one's complement.
#[inline(always)]
fn checksum(packet: &Packet, tcp: &tcp::Header, partial: bool) -> u16 {
    let length_and_proto = (tcp::LEN + u32::from(Proto::Tcp.number())).to_be();
    let pseudo = u64::from(length_and_proto) + sum(&packet.key.src.words()) + sum(&packet.key.dst.words());
    if partial { fold_16(pseudo) } else { !fold_16(pseudo + sum(tcp.words())) }
}

#[inline(always)]
fn turn_ip(packet: &mut Packet, old_len: u16, header_len: u32) -> bool {
    let (src, dst) = (packet.key.src, packet.key.dst);
    if packet.v6 {
        let len = ((header_len - ipv6::LEN + tcp::LEN) as u16).to_be();
        return packet.store(packet.l3 + ipv6::PAYLOAD_LEN, &len, RECOMPUTE)
            && packet.store(packet.l3 + ipv6::SRC, &[dst, src], RECOMPUTE);
    }
    let len = ((header_len + tcp::LEN) as u16).to_be();
    let check = updated(packet.ip_check, delta_word(u32::from(old_len), u32::from(len)));
    let ([s, t], [d, e]) = (halves(dst.v4_word()), halves(src.v4_word()));
    packet.store(packet.l3 + ipv4::TOTAL_LEN, &len, RECOMPUTE)
        && packet.store(packet.l3 + ipv4::CHECK, &[check, s, t, d, e], RECOMPUTE)
}

/// Whether the checksum field holds only the pseudo header's sum. No helper tells, but `bpf_l4_csum_replace` leaves
/// such a field alone when a word of the payload changes. The trial change is undone.
#[inline(always)]
fn checksum_is_partial(packet: &mut Packet) -> Option<bool> {
    let at = packet.l4 + tcp::CHECK;
    let original = packet.load::<u16>(at)?;
    if !fix_check(packet, 0, 1, 4) {
        return None;
    }
    if packet.load::<u16>(at)? == original {
        return Some(true);
    }
    packet.store(at, &original, 0).then_some(false)
}
