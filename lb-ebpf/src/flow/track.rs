//! Keeping flows: what a packet changes in the flow to which it belongs.

use lb_common::{Counter, Flow, FlowKey, Phase, Ring};

use super::clock::{beat, now};
use super::ring;
use super::tuple::{expect_reply_of_hairpin, opposite, reverse_of};
use super::window::{self, Ending};
use crate::frame::layout::tcp;
use crate::frame::{Headers, Span};
use crate::global::global;
use crate::maps;

/// Beats without a reply for which a learned MAC address is believed.
const MAC_TRUSTED: u16 = 2;

/// Keeps the flow of a packet from a pod that came by this link.
#[inline(always)]
pub fn touch_forward(headers: &Headers, flow: &mut Flow, link: u32) {
    // The sources of such segments are not proven.
    if flow.link == link || flow.link == 0 {
        window::note(&headers.span, headers.tcp_flags, flow);
    }
    if flow.beat != beat()
        || flow.is_in(Phase::Replied) && !flow.is_waiting()
        || flow.is_in(Phase::Closed)
        || headers.has_control_flag()
    {
        if flow.is_reverse() {
            // A hairpin reply enters by the link of the requests.
            track_backend(&headers.key, flow, headers.tcp_flags, headers.span.numbers(), 0);
        } else {
            track_forward(&headers.key, flow, headers.tcp_flags, headers.span.numbers());
        }
    }
}

/// Notes a reply, and returns whether it changes more of its flow than that. `reverse` is its reverse entry.
#[inline(always)]
pub fn has_changed(headers: &Headers, reverse: &mut Flow) -> bool {
    window::note(&headers.span, headers.tcp_flags, reverse);
    reverse.beat != beat()
        || reverse.is_in(Phase::New)
        || reverse.is_in(Phase::Closed)
        || headers.has_control_flag()
}

/// Keeps the flow of a reply that changes the flow. `mac` is the source's in the low 48 bits, first byte lowest; 0 is
/// not to be learned.
#[inline(always)]
pub fn track_reply(headers: &Headers, reverse: &mut Flow, mac: u64) {
    track_backend(&headers.key, reverse, headers.tcp_flags, headers.span.numbers(), mac);
}

global!(
    /// Keeps the flow of a packet from a pod. `flow` is its forward entry; `numbers` are TCP's ([`Span::numbers`]).
    fn track_forward(key: &FlowKey, flow: &mut Flow, tcp_flags: u8, numbers: u64) -> () = forward, null: ()
);

#[inline(always)]
fn forward(key: &FlowKey, flow: &mut Flow, tcp_flags: u8, numbers: u64) {
    let (seq, ack) = Span::of_numbers(numbers);
    let other = opposite(key, flow);
    let mut reverse = maps::flow(&other);
    if let Some(reverse) = &mut reverse
        && tcp_flags & tcp::ACK != 0
    {
        window::find_back(seq, ack, flow, reverse);
    }
    let is_syn = tcp_flags & tcp::SYN != 0;
    if is_syn {
        flow.syn_count = flow.syn_count.saturating_add(1);
        flow.doubted = seq.wrapping_add(1);
    }
    let beat = beat();
    if flow.beat != beat {
        flow.beat = beat;
        // The time since a RST counts, not that since a SYN.
        if !is_syn || !flow.was_reset() {
            flow.last_seen = now();
        }
        if let Some(reverse) = &mut reverse {
            refresh_reverse(flow, reverse);
        }
        if flow.is_hairpin() {
            expect_reply_of_hairpin(key, flow);
        }
    }
    if flow.is_in(Phase::Replied) && tcp_flags & (tcp::SYN | tcp::RST) == 0 {
        promote(key, flow);
    }
    if tcp_flags & (tcp::FIN | tcp::RST) != 0 {
        let ending = window::ending(seq, ack, tcp_flags, flow.is_live(), flow, reverse.as_deref());
        close(key, flow, Flow::FIN_CLIENT, ending);
    }
    if flow.was_reset() && tcp_flags & (tcp::SYN | tcp::RST) == 0 && window::is_near(seq, ack, flow) {
        go_on(key, flow, Flow::WENT_ON_CLIENT);
    }
    match reverse {
        Some(reverse) => copy_state(flow, reverse),
        None => put_back_reverse(key, flow, &other),
    }
}

/// The sweep judges each entry by its own state.
#[inline(always)]
fn copy_state(flow: &Flow, reverse: &mut Flow) {
    reverse.phase = flow.phase;
    reverse.flags = reverse.flags & !Flow::WAITING | flow.flags & Flow::WAITING;
}

/// Once a beat a forward packet keeps the reverse entry.
#[inline(always)]
fn refresh_reverse(flow: &mut Flow, reverse: &mut Flow) {
    reverse.last_seen = flow.last_seen;
    // Only replies write the reverse entry's beat. Without replies, the far end may have come back with another MAC
    // address, which the host's stack finds.
    if flow.beat.wrapping_sub(reverse.beat) > MAC_TRUSTED {
        flow.mac = [0; 6];
    }
}

/// Puts the reverse entry back if it is gone.
#[inline(always)]
fn put_back_reverse(key: &FlowKey, flow: &Flow, other: &FlowKey) {
    if let Some(scratch) = maps::scratch() {
        reverse_of(key, flow, &mut scratch.reverse);
        // The entry may have come back meanwhile; the next packet that changes something tells.
        let _ = maps::flow_insert_new(other, &scratch.reverse);
    }
}

global!(
    /// Keeps the flow of a reply. `reverse` is its reverse entry; `numbers` are TCP's ([`Span::numbers`]). `mac` is the
    /// source's in the low 48 bits, first byte lowest; 0 is not to be learned.
    fn track_backend(key: &FlowKey, reverse: &mut Flow, tcp_flags: u8, numbers: u64, mac: u64) -> () = backend,
        null: ()
);

#[inline(always)]
fn backend(key: &FlowKey, reverse: &mut Flow, tcp_flags: u8, numbers: u64, mac: u64) {
    let (seq, ack) = Span::of_numbers(numbers);
    let other = opposite(key, reverse);
    let Some(flow) = maps::flow(&other) else { return };
    if tcp_flags & tcp::ACK != 0 {
        window::find_back(seq, ack, reverse, flow);
    }
    let beat = beat();
    if reverse.beat != beat {
        reverse.beat = beat;
        reverse.last_seen = now();
        flow.last_seen = reverse.last_seen;
    }
    if mac != 0 {
        let [a, b, c, d, e, f, ..] = mac.to_le_bytes();
        flow.mac = [a, b, c, d, e, f];
    }
    if flow.is_in(Phase::New) && tcp_flags & tcp::RST == 0 {
        flow.phase = Phase::Replied.number();
        if !key.is_tcp() {
            promote(&other, flow);
        }
    }
    if (flow.is_live() || flow.was_reset()) && window::answers_syn(ack, tcp_flags, flow) {
        window::begin(seq, ack, flow, reverse);
        begin_again(&other, flow);
    }
    if tcp_flags & (tcp::FIN | tcp::RST) != 0 {
        let ending = window::ending(seq, ack, tcp_flags, flow.is_live(), reverse, Some(flow));
        close(&other, flow, Flow::FIN_BACKEND, ending);
    }
    if flow.was_reset() && tcp_flags & tcp::RST == 0 && window::is_near(seq, ack, reverse) {
        go_on(&other, flow, Flow::WENT_ON_BACKEND);
    }
    copy_state(flow, reverse);
}

/// Makes a flow assured if there is room. A flow without room stays in its ring, works, and asks again at each beat.
#[inline(always)]
fn promote(key: &FlowKey, flow: &mut Flow) {
    if !maps::has_room(key) {
        if !flow.is_waiting() {
            flow.flags |= Flow::WAITING;
            maps::count(Counter::FlowTableFull);
        }
        return;
    }
    let phase = if flow.flags & Flow::FINS == 0 { Phase::Assured } else { Phase::Closing };
    flow.flags &= !Flow::WAITING;
    flow.phase = phase.number();
    maps::count_live(key, 1);
    maps::count(Counter::FlowAssured);
}

/// Notes a FIN or RST. When both sides have closed, or one has reset, the flow goes into a ring. Live flows are
/// therefore all that the table keeps, whether an agent runs or not.
#[inline(always)]
fn close(key: &FlowKey, flow: &mut Flow, side: u8, ending: Ending) {
    let was_live = flow.is_live();
    match ending {
        Ending::Nothing => return,
        Ending::Side => flow.flags |= side,
        Ending::Connection if was_live => flow.flags &= !WENT_ON,
        // Nothing was established that could go on, or this is the second RST.
        Ending::Connection => flow.flags |= Flow::FINS,
    }
    let is_over = ending == Ending::Connection || flow.flags & Flow::FINS == Flow::FINS;
    let phase = if is_over { Phase::Closed } else { Phase::Closing };
    if flow.has_reached(phase) || phase == Phase::Closing && !was_live {
        return;
    }
    flow.phase = phase.number();
    if phase == Phase::Closed {
        // A RST is uncertain for a while.
        flow.last_seen = now();
        if was_live {
            maps::count_live(key, -1);
            maps::count(Counter::FlowClosed);
        }
        ring::enter(Ring::Ended, key, flow.first_seen);
    }
}

/// Both sides have sent a segment since a RST.
const WENT_ON: u8 = Flow::WENT_ON_CLIENT | Flow::WENT_ON_BACKEND;

/// Notes that a side goes on after a RST. If both do, the RST was forged, or no side has taken it.
#[inline(always)]
fn go_on(key: &FlowKey, flow: &mut Flow, side: u8) {
    flow.flags |= side;
    if flow.flags & WENT_ON != WENT_ON {
        return;
    }
    promote(key, flow);
    if flow.is_waiting() {
        wait_in_ring(key, flow);
    }
}

/// Another connection takes the flow: its backend has answered the client's SYN.
#[inline(always)]
fn begin_again(key: &FlowKey, flow: &mut Flow) {
    flow.flags &= !(Flow::FINS | WENT_ON);
    if flow.is_live() {
        flow.phase = Phase::Assured.number();
    } else {
        wait_in_ring(key, flow);
    }
}

/// Makes an ended flow one that is not assured yet.
#[inline(always)]
fn wait_in_ring(key: &FlowKey, flow: &mut Flow) {
    flow.phase = Phase::Replied.number();
    ring::enter(Ring::HalfOpen, key, flow.first_seen);
}

global!(
    /// Removes both entries of a flow.
    pub fn forget(key: &FlowKey) -> () = remove, null: ()
);

#[inline(always)]
fn remove(key: &FlowKey) {
    let Some(flow) = maps::flow(key) else { return };
    let other = opposite(key, flow);
    let counts = flow.is_live() && !flow.is_reverse();
    if maps::flow_remove(key) && counts {
        maps::count_live(key, -1);
    }
    maps::flow_remove(&other);
    maps::forget_previous(key);
    maps::forget_previous(&other);
}
