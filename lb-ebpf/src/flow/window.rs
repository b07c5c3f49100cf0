//! Whether a segment that ends a connection belongs to it. Whoever does not see the connection can only guess its numbers.
//!
//! The rules are those of RFC 5961 3.2 and of the kernel's conntrack, as far as two words for each direction allow: a
//! RST ends a connection if its sequence number is exactly the next one that its receiver expects, and a FIN counts if
//! both of its numbers lie near what its side has sent.

use lb_common::Flow;

use crate::frame::Span;
use crate::frame::layout::tcp;

/// How far from what its side has sent a segment may be, in either of its numbers.
const NEAR: u32 = 1 << 22;
/// The most that a SYN may carry (RFC 7413).
const SYN_DATA: u32 = 1 << 16;

/// Notes how far the sender of a segment has come. `flow` is the entry of the segment's direction.
#[inline(always)]
pub fn note(span: &Span, tcp_flags: u8, flow: &mut Flow) {
    // A RST occupies no sequence number, and may have been guessed.
    if tcp_flags & (tcp::ACK | tcp::RST) != tcp::ACK || !is_near(span.seq, span.ack, flow) {
        return;
    }
    if flow.end == 0 {
        flow.end = span.end;
        flow.ack = span.ack;
        return;
    }
    if is_behind(flow.end, span.end) {
        flow.end = span.end;
    }
    if is_behind(flow.ack, span.ack) {
        flow.ack = span.ack;
    }
}

/// Whether a segment with an ACK may be one of the connection. `flow` is the entry of the segment's direction.
#[inline(always)]
pub fn is_near(seq: u32, ack: u32, flow: &Flow) -> bool {
    flow.end == 0 || are_near(seq, flow.end) && are_near(ack, flow.ack)
}

#[inline(always)]
const fn are_near(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).wrapping_add(NEAR) < 2 * NEAR
}

/// Takes a segment's numbers for its direction if they were lost, because more was sent than is near while no program of
/// ours was there, and the other direction knows them.
#[inline(always)]
pub fn find_back(seq: u32, ack: u32, flow: &mut Flow, other: &Flow) {
    if other.end != 0 && !is_near(seq, ack, flow) && are_near(seq, other.ack) && are_near(ack, other.end) {
        flow.end = seq;
        flow.ack = ack;
    }
}

/// Whether a SYN-ACK with this acknowledgement number answers the last SYN of a client on a flow that was there: another
/// connection begins between the same ends.
#[inline(always)]
pub fn answers_syn(ack: u32, tcp_flags: u8, flow: &Flow) -> bool {
    tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK
        && flow.doubted != 0
        && ack.wrapping_sub(flow.doubted) < SYN_DATA
}

/// Takes the numbers of a SYN-ACK for both directions.
#[inline(always)]
pub fn begin(seq: u32, ack: u32, flow: &mut Flow, reverse: &mut Flow) {
    let next = seq.wrapping_add(1);
    flow.doubted = 0;
    (flow.end, flow.ack) = (ack, next);
    (reverse.end, reverse.ack) = (next, ack);
}

/// Whether a RST has the sequence number that its receiver expects: the one after what the sender has sent, or the one
/// that the receiver has acknowledged. `flow` is the entry of the segment's direction, `other` that of the receiver's.
#[inline(always)]
fn is_expected(seq: u32, flow: &Flow, other: Option<&Flow>) -> bool {
    flow.end == 0 || seq == flow.end || other.is_some_and(|other| seq == other.ack || other.end == 0)
}

/// What a segment with FIN or RST ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Nothing: the segment is not one of the connection.
    Nothing,
    /// What its sender sends. Also for a RST that may be late or forged.
    Side,
    Connection,
}

/// What a segment with FIN or RST ends. `flow` is the entry of the segment's direction, `other` that of the other one.
#[inline(always)]
pub fn ending(seq: u32, ack: u32, tcp_flags: u8, is_live: bool, flow: &Flow, other: Option<&Flow>) -> Ending {
    // A RST that refuses a connection has 0.
    if tcp_flags & tcp::RST != 0 && (!is_live || is_expected(seq, flow, other)) {
        Ending::Connection
    } else if tcp_flags & tcp::ACK != 0 && is_near(seq, ack, flow) {
        Ending::Side
    } else {
        Ending::Nothing
    }
}

/// Whether `a` comes before `b`, of two sequence numbers that are less than 2^31 apart.
#[inline(always)]
const fn is_behind(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) > 0
}
