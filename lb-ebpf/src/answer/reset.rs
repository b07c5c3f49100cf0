//! Turns a segment into a RST, as RFC 9293 3.5.2 says, and tells the far end of a connection that it is over.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM},
    helpers::{bpf_clone_redirect, bpf_l4_csum_replace, bpf_skb_change_tail},
};
use lb_common::{Action, Flow};

use crate::frame::rewrite::{self, fold_16};
use crate::frame::{Headers, Packet, TCP_ACK, TCP_FIN, TCP_PSH, TCP_RST, TCP_SYN};

const TCP_LEN: u32 = 20;
const TCP_FLAGS: u32 = 12;
const TCP_CHECK: u32 = 16;
const RECOMPUTE: u64 = BPF_F_RECOMPUTE_CSUM as u64;

/// Turns the segment into its own RST; `false` where the kernel refused.
#[inline(always)]
pub fn turn(packet: &mut Packet) -> bool {
    turn_into_reset(packet.skb, packet.headers) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn turn_into_reset(skb: *mut __sk_buff, headers: *mut Headers) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(headers) = (unsafe { headers.as_mut() }) else { return 0 };
    u32::from(turn_tcp(&mut Packet { skb, headers }))
}

/// Tells the backend of a segment's flow that its client is gone: one that left the Service may live on, and would wait
/// for hours. A copy of the segment becomes a RST and enters by the client's link as if the client had sent it, past
/// all that looks at its packets there. The segment itself is to be [turned](turn) or dropped, for it is not what it was.
#[inline(always)]
pub fn tell_backend(packet: &mut Packet, flow: &Flow) {
    // A hairpin's backend is its client.
    if flow.action != Action::Hairpin as u8 {
        send_reset(packet.skb, packet.headers, flow);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn send_reset(skb: *mut __sk_buff, headers: *mut Headers, flow: *const Flow) -> u32 {
    // SAFETY: null, or the caller's.
    let (Some(headers), Some(flow)) = (unsafe { (headers.as_mut(), flow.as_ref()) }) else { return 0 };
    let packet = &mut Packet { skb, headers };
    u32::from(rewrite::as_flow_says(packet, flow) && set_reset_flag(packet) && send_copy(packet, flow.mac))
}

/// A RST may have a payload (RFC 9293 3.10.7.4): so nothing else is to change.
#[inline(always)]
fn set_reset_flag(packet: &mut Packet) -> bool {
    const OTHERS: u16 = (TCP_SYN | TCP_FIN | TCP_PSH) as u16;
    let Some(old) = packet.load::<u16>(packet.l4 + TCP_FLAGS) else { return false };
    let new = (old.to_be() & !OTHERS | u16::from(TCP_RST)).to_be();
    let at = packet.l4 + TCP_CHECK;
    // SAFETY: a plain helper call on the context.
    let fixed = unsafe { bpf_l4_csum_replace(packet.skb, at, u64::from(old), u64::from(new), 2) == 0 };
    fixed && packet.store(packet.l4 + TCP_FLAGS, &new, 0)
}

/// `mac`, where it was learned, is where the flow's packets go past the host's stack.
#[inline(always)]
fn send_copy(packet: &mut Packet, mac: [u8; 6]) -> bool {
    let Some(before) = packet.load::<[u8; 6]>(0) else { return false };
    if mac != [0; 6] && !packet.send_to_mac(mac) {
        return false;
    }
    // SAFETY: a plain helper call on the context.
    let sent = unsafe { bpf_clone_redirect(packet.skb, packet.ifindex(), u64::from(BPF_F_INGRESS)) == 0 };
    packet.store(0, &before, 0) && sent
}

#[inline(always)]
fn turn_tcp(packet: &mut Packet) -> bool {
    let Some(partial) = checksum_is_partial(packet) else { return false };
    let Some(old) = packet.load::<[u32; 5]>(packet.l4) else { return false };
    let header_len = packet.l4 - packet.l3;
    let Some(old_len) = packet.load::<u16>(packet.l3 + if packet.v6 { 4 } else { 2 }) else { return false };
    let (seq, ack) = if packet.tcp_flags & TCP_ACK != 0 {
        (old[2], 0)
    } else {
        let all = u32::from(old_len.to_be()) + if packet.v6 { 40 } else { 0 };
        let data_offset = (old[3].to_be() >> 28) * 4;
        let payload = all.wrapping_sub(header_len).wrapping_sub(data_offset) & 0xffff;
        let phantom = u32::from(packet.tcp_flags & TCP_SYN != 0) + u32::from(packet.tcp_flags & TCP_FIN != 0);
        (0, old[1].to_be().wrapping_add(payload + phantom).to_be())
    };
    let flags = if ack == 0 && packet.tcp_flags & TCP_ACK != 0 { TCP_RST } else { TCP_RST | TCP_ACK };
    let ports = u32::from(packet.key.dport.word()) | u32::from(packet.key.sport.word()) << 16;
    let mut tcp = [ports, seq, ack, (5 << 28 | u32::from(flags) << 16).to_be(), 0];

    // Source and destination change places: the pseudo header's sum is the same.
    let (s, d) = (packet.key.src.words(), packet.key.dst.words());
    let mut sum = u64::from((TCP_LEN + 6).to_be());
    if packet.v6 {
        sum += u64::from(s[0])
            + u64::from(s[1])
            + u64::from(s[2])
            + u64::from(d[0])
            + u64::from(d[1])
            + u64::from(d[2]);
    }
    sum += u64::from(s[3]) + u64::from(d[3]);
    let check = if partial {
        fold_16(sum)
    } else {
        sum += u64::from(tcp[0]) + u64::from(tcp[1]) + u64::from(tcp[2]) + u64::from(tcp[3]);
        !fold_16(sum)
    };
    tcp[4] = u32::from(check);

    // SAFETY: a plain helper call on the context.
    if unsafe { bpf_skb_change_tail(packet.skb, packet.l4 + TCP_LEN, 0) } != 0 {
        return false;
    }
    packet.store(packet.l4, &tcp, RECOMPUTE) && turn_ip(packet, old_len, header_len)
}

#[inline(always)]
fn turn_ip(packet: &mut Packet, old_len: u16, header_len: u32) -> bool {
    let (src, dst) = (packet.key.src, packet.key.dst);
    if packet.v6 {
        let len = ((header_len - 40 + TCP_LEN) as u16).to_be();
        return packet.store(packet.l3 + 4, &len, RECOMPUTE)
            && packet.store(packet.l3 + 8, &dst, RECOMPUTE)
            && packet.store(packet.l3 + 24, &src, RECOMPUTE);
    }
    let len = ((header_len + TCP_LEN) as u16).to_be();
    let check = !fold_16(u64::from(!packet.ip_check) + u64::from(!old_len) + u64::from(len));
    let (s, d) = (dst.v4_word(), src.v4_word());
    let words = [check, s as u16, (s >> 16) as u16, d as u16, (d >> 16) as u16];
    packet.store(packet.l3 + 2, &len, RECOMPUTE) && packet.store(packet.l3 + 10, &words, RECOMPUTE)
}

/// Does the checksum field hold the pseudo header's sum only? No helper says so, but `bpf_l4_csum_replace`
/// leaves such a field alone when a word of the payload changes. Puts back what it tried.
#[inline(always)]
fn checksum_is_partial(packet: &mut Packet) -> Option<bool> {
    let at = packet.l4 + TCP_CHECK;
    let before = packet.load::<u16>(at)?;
    // SAFETY: a plain helper call on the context.
    if unsafe { bpf_l4_csum_replace(packet.skb, at, 0, 1, 4) } != 0 {
        return None;
    }
    let after = packet.load::<u16>(at)?;
    if before == after {
        return Some(true);
    }
    if packet.store(at, &before, 0) { Some(false) } else { None }
}
