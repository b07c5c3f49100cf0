//! Keeping flows: what a packet changes in the flow to which it belongs.

use lb_common::{Counter, Flow, FlowKey, Phase};

use super::clock::{beat, now};
use super::tuple::{opposite, reverse_of};
use crate::frame::Headers;
use crate::frame::layout::tcp;
use crate::global::global;
use crate::maps::{self, EEXIST, Part};

/// Beats without a reply for which a learned MAC address is believed.
const MAC_TRUSTED: u16 = 2;

/// Keeps the flow of a packet from a pod, if something about the flow has changed.
#[inline(always)]
pub fn touch_forward(headers: &Headers, flow: &Flow) {
    if flow.beat != beat() || flow.is_in(Phase::Replied) || headers.has_control_flag() {
        if flow.is_reverse() {
            // A hairpin reply enters by the link of the requests.
            track_backend(&headers.key, headers.tcp_flags, 0);
        } else {
            track_forward(&headers.key, headers.tcp_flags);
        }
    }
}

global!(
    /// Keeps the flow of a packet from a pod.
    fn track_forward(key: &FlowKey, tcp_flags: u8) -> () = forward, null: ()
);

#[inline(always)]
fn forward(key: &FlowKey, tcp_flags: u8) {
    let Some((flow, part)) = maps::flow(key) else { return };
    if flow.is_reverse() {
        // The entry has become another flow's meanwhile.
        return;
    }
    let other = opposite(key, flow);
    if tcp_flags & tcp::SYN != 0 && flow.syn_count < u8::MAX {
        flow.syn_count += 1;
    }
    let beat = beat();
    if flow.beat != beat {
        flow.beat = beat;
        flow.last_seen = now();
        refresh_reverse(key, flow, &other, part);
    }
    if tcp_flags & (tcp::FIN | tcp::RST) != 0 {
        close(key, flow, part, &other, Flow::FIN_CLIENT, tcp_flags & tcp::RST != 0);
    } else if part == Part::Unassured
        && (flow.is_in(Phase::Replied) && tcp_flags & tcp::SYN == 0 || flow.is_in(Phase::Assured))
    {
        promote(key, flow, &other);
    }
}

/// Once a beat a forward packet keeps the reverse entry, and puts it back if it was evicted.
#[inline(always)]
fn refresh_reverse(key: &FlowKey, flow: &mut Flow, other: &FlowKey, part: Part) {
    match maps::flow(other) {
        Some((reverse, _)) => {
            reverse.last_seen = flow.last_seen;
            // Only replies write the reverse entry's beat. Without replies, the far end may have come back with
            // another MAC address, which the host's stack finds.
            if flow.beat.wrapping_sub(reverse.beat) > MAC_TRUSTED {
                flow.mac = [0; 6];
            }
        }
        None => {
            if let Some(pair) = maps::scratch() {
                reverse_of(key, flow, &mut pair.reverse);
                // The entry may have come back meanwhile; the next beat tells.
                let _ = maps::flow_insert_new(part, other, &pair.reverse);
            }
        }
    }
    if flow.is_hairpin() {
        maps::set_interesting(flow.src.addr, flow.src.port, key.proto);
    }
}

global!(
    /// Keeps the flow of a reply. `mac` is the source's in the low 48 bits, first byte lowest; 0 is not to be learned.
    pub fn track_backend(key: &FlowKey, tcp_flags: u8, mac: u64) -> () = backend, null: ()
);

#[inline(always)]
fn backend(key: &FlowKey, tcp_flags: u8, mac: u64) {
    let Some((reverse, _)) = maps::flow(key) else { return };
    let other = opposite(key, reverse);
    let Some((flow, part)) = maps::flow(&other) else { return };
    reverse.beat = beat();
    reverse.last_seen = now();
    flow.last_seen = reverse.last_seen;
    if mac != 0 {
        let [a, b, c, d, e, f, ..] = mac.to_le_bytes();
        flow.mac = [a, b, c, d, e, f];
    }
    if tcp_flags & (tcp::FIN | tcp::RST) != 0 {
        close(&other, flow, part, key, Flow::FIN_BACKEND, tcp_flags & tcp::RST != 0);
    } else if flow.is_in(Phase::New) {
        if key.is_tcp() {
            flow.phase = Phase::Replied.number();
            reverse.phase = Phase::Replied.number();
        } else {
            promote(&other, flow, key);
        }
    }
}

/// Moves a flow to `flows`: insert first, delete second, so that the flow is always found. If the table is full, the
/// flow stays in its LRU.
#[inline(always)]
fn promote(key: &FlowKey, flow: &mut Flow, other: &FlowKey) {
    flow.phase = Phase::Assured.number();
    let Some(pair) = maps::scratch() else { return };
    reverse_of(key, flow, &mut pair.reverse);
    if let Some(old) = maps::flow_in(Part::Unassured, other) {
        old.phase = Phase::Assured.number();
    }
    match maps::flow_insert_new(Part::Assured, other, &pair.reverse) {
        Ok(()) => {}
        // Another CPU is promoting the flow.
        Err(EEXIST) => return,
        Err(_) => {
            maps::count(Counter::FlowTableFull);
            return;
        }
    }
    if maps::flow_insert_new(Part::Assured, key, flow).is_err() {
        maps::flow_remove(Part::Assured, other);
        maps::count(Counter::FlowTableFull);
        return;
    }
    maps::flow_remove(Part::Unassured, key);
    maps::flow_remove(Part::Unassured, other);
    maps::count(Counter::FlowAssured);
}

/// Notes a FIN or RST. When both sides have closed, or one has reset, the flow leaves `flows`. The table therefore
/// holds live flows only, whether an agent runs or not.
#[inline(always)]
fn close(key: &FlowKey, flow: &mut Flow, part: Part, other: &FlowKey, side: u8, reset: bool) {
    if !reset {
        flow.flags |= side;
    }
    let both = Flow::FIN_CLIENT | Flow::FIN_BACKEND;
    let phase = if reset || flow.flags & both == both { Phase::Closed } else { Phase::Closing };
    if flow.has_reached(phase) {
        return;
    }
    flow.phase = phase.number();
    if let Some((reverse, _)) = maps::flow(other) {
        reverse.phase = phase.number();
    }
    if phase == Phase::Closed && part == Part::Assured {
        let Some(pair) = maps::scratch() else { return };
        reverse_of(key, flow, &mut pair.reverse);
        if maps::flow_insert(Part::Unassured, other, &pair.reverse).is_err()
            || maps::flow_insert(Part::Unassured, key, flow).is_err()
        {
            return;
        }
        maps::flow_remove(Part::Assured, key);
        maps::flow_remove(Part::Assured, other);
        maps::count(Counter::FlowClosed);
    }
}

global!(
    /// Removes both entries of a flow.
    pub fn forget(key: &FlowKey) -> () = remove, null: ()
);

#[inline(always)]
fn remove(key: &FlowKey) {
    let Some((flow, part)) = maps::flow(key) else { return };
    let other = opposite(key, flow);
    maps::flow_remove(part, key);
    // A reverse entry that was evicted and made again may be in the other part.
    maps::flow_remove(Part::Assured, &other);
    maps::flow_remove(Part::Unassured, &other);
    maps::forget_previous(key);
    maps::forget_previous(&other);
}
