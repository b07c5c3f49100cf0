//! Keeping flows: what a packet changes about the flow that it belongs to.

use lb_common::{Action, Counter, Flow, FlowKey, Phase, Proto};

use super::clock::{beat, now};
use super::tuple::{opposite, reverse_of};
use crate::frame::{Packet, TCP_FIN, TCP_RST, TCP_SYN};
use crate::maps::{self, EEXIST, Part};

/// Beats without a reply for which a learned MAC address is believed.
const MAC_TRUSTED: u16 = 2;

/// Keeps the flow of a packet from a pod, where something about it has changed.
#[inline(always)]
pub fn touch_forward(packet: &Packet, flow: &Flow) {
    if flow.beat != beat()
        || flow.phase == Phase::Replied as u8
        || packet.tcp_flags & (TCP_FIN | TCP_RST | TCP_SYN) != 0
    {
        track_forward(&packet.key, packet.tcp_flags);
    }
}

/// This and its siblings are global functions: the verifier checks each once, for any argument, instead of once
/// for every path that leads to it (a tenth of the instructions). It reads r0 of every function, so all return
/// a number, and takes every pointer for one that may be null.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn track_forward(key: *const FlowKey, tcp_flags: u8) -> u32 {
    // SAFETY: null, or the caller's key.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    let Some((flow, part)) = maps::flow(key) else { return 0 };
    if flow.flags & Flow::REVERSE != 0 {
        // A hairpin reply enters where requests do.
        return track_backend(key, tcp_flags, 0);
    }
    let other = opposite(key, flow);
    if tcp_flags & TCP_SYN != 0 && flow.syn_count < u8::MAX {
        flow.syn_count += 1;
    }
    let beat = beat();
    if flow.beat != beat {
        flow.beat = beat;
        flow.last_seen = now();
        refresh_reverse(key, flow, &other, part);
    }
    if tcp_flags & (TCP_FIN | TCP_RST) != 0 {
        close(key, flow, part, &other, Flow::FIN_CLIENT, tcp_flags & TCP_RST != 0);
    } else if part == Part::Unassured
        && (flow.phase == Phase::Replied as u8 && tcp_flags & TCP_SYN == 0
            || flow.phase == Phase::Assured as u8)
    {
        promote(key, flow, &other);
    }
    1
}

/// Once a beat a forward packet keeps the reverse entry, and puts it back where it was evicted.
#[inline(always)]
fn refresh_reverse(key: &FlowKey, flow: &mut Flow, other: &FlowKey, part: Part) {
    match maps::flow(other) {
        Some((reverse, _)) => {
            reverse.last_seen = flow.last_seen;
            // Only replies write the reverse entry's beat. Without any, the far end may have come back with
            // another MAC address: the host's stack finds it.
            if flow.beat.wrapping_sub(reverse.beat) > MAC_TRUSTED {
                flow.mac = [0; 6];
            }
        }
        None => {
            if let Some(pair) = maps::scratch() {
                reverse_of(key, flow, &mut pair.reverse);
                // It may have come back meanwhile; the next beat tells.
                let _ = maps::flow_insert_new(part, other, &pair.reverse);
            }
        }
    }
    if flow.action == Action::Hairpin as u8 {
        maps::set_interesting(flow.src.addr, flow.src.port, key.proto);
    }
}

/// Keeps the flow of a reply to a pod.
#[inline(always)]
pub fn track_reverse(packet: &Packet, learn: bool) {
    let mac = if learn { packet.source_mac() } else { 0 };
    track_backend(&packet.key, packet.tcp_flags, mac);
}

/// `mac` is the source's in the low 48 bits, first byte lowest; 0 is not to be learned.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn track_backend(key: *const FlowKey, tcp_flags: u8, mac: u64) -> u32 {
    // SAFETY: null, or the caller's key.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    let Some((reverse, _)) = maps::flow(key) else { return 0 };
    let other = opposite(key, reverse);
    let Some((flow, part)) = maps::flow(&other) else { return 0 };
    reverse.beat = beat();
    reverse.last_seen = now();
    flow.last_seen = reverse.last_seen;
    if mac != 0 {
        let [a, b, c, d, e, f, ..] = mac.to_le_bytes();
        flow.mac = [a, b, c, d, e, f];
    }
    if tcp_flags & (TCP_FIN | TCP_RST) != 0 {
        close(&other, flow, part, key, Flow::FIN_BACKEND, tcp_flags & TCP_RST != 0);
    } else if flow.phase == Phase::New as u8 {
        if key.proto == Proto::Tcp as u8 {
            flow.phase = Phase::Replied as u8;
            reverse.phase = Phase::Replied as u8;
        } else {
            promote(&other, flow, key);
        }
    }
    1
}

/// Moves a flow to `flows`: insert first, delete second, so that it is always found. Where the table is full
/// it stays where it is.
#[inline(always)]
fn promote(key: &FlowKey, flow: &mut Flow, other: &FlowKey) {
    flow.phase = Phase::Assured as u8;
    let Some(pair) = maps::scratch() else { return };
    reverse_of(key, flow, &mut pair.reverse);
    if let Some(old) = maps::flow_in(Part::Unassured, other) {
        old.phase = Phase::Assured as u8;
    }
    match maps::flow_insert_new(Part::Assured, other, &pair.reverse) {
        Ok(()) => {}
        // Another CPU is at it.
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

/// Notes a FIN or RST. When both sides closed, or one reset, the flow leaves `flows`, which so holds live flows
/// only, agent or no agent.
#[inline(always)]
fn close(key: &FlowKey, flow: &mut Flow, part: Part, other: &FlowKey, side: u8, reset: bool) {
    if !reset {
        flow.flags |= side;
    }
    let both = Flow::FIN_CLIENT | Flow::FIN_BACKEND;
    let phase = if reset || flow.flags & both == both { Phase::Closed } else { Phase::Closing };
    if flow.phase >= phase as u8 {
        return;
    }
    flow.phase = phase as u8;
    if let Some((reverse, _)) = maps::flow(other) {
        reverse.phase = phase as u8;
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

/// Removes both entries of a flow.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn forget(key: *const FlowKey) -> u32 {
    // SAFETY: null, or the caller's key.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    let Some((flow, part)) = maps::flow(key) else { return 0 };
    let other = opposite(key, flow);
    maps::flow_remove(part, key);
    // A reverse entry that was evicted and made again may be in the other part.
    maps::flow_remove(Part::Assured, &other);
    maps::flow_remove(Part::Unassured, &other);
    maps::forget_before(key);
    maps::forget_before(&other);
    1
}
