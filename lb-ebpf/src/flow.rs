//! Flows: found, kept, closed.
//!
//! A flow is two entries, forward and reverse. It starts in the LRU of its protocol and moves to `flows` when
//! it is assured, so that a flood of requests evicts neither established connections nor each other's kind.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use lb_common::{Action, Addr, Counter, Endpoint, Flow, FlowKey, Phase, Port, Proto, TICK_SHIFT};

use crate::frontend;
use crate::maps::{self, Part};
use crate::packet::{Packet, TCP_FIN, TCP_RST, TCP_SYN};

pub const EEXIST: i32 = -17;

/// Beats without a reply for which a learned MAC address is believed.
const MAC_TRUSTED: u16 = 2;

/// Changes about once a second (every 256 jiffies) and costs one load, where the clock costs 29 ns.
#[inline(always)]
pub fn beat() -> u16 {
    // SAFETY: a plain helper call, which the verifier replaces by a load.
    (unsafe { bpf_jiffies64() } >> 8) as u16
}

/// Ticks of `CLOCK_MONOTONIC`, as flows count them: a shift, for the target divides slowly.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: a plain helper call.
    (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32
}

/// What a packet from a pod finds in its flow.
pub enum Standing {
    Good,
    /// The entry is about the other direction.
    OtherWay,
    /// The connection had ended, and this packet starts another.
    Over,
    /// UDP or SCTP, and the backend is gone: another one takes the flow.
    Moved,
    /// TCP, and the backend is gone.
    BackendGone,
}

#[inline(always)]
pub fn standing(packet: &Packet, flow: &Flow) -> Standing {
    if flow.flags & Flow::REVERSE != 0 && flow.action != Action::Hairpin as u8 {
        return Standing::OtherWay;
    }
    // Nobody answered a direct flow, and by now its destination is a Service's.
    if flow.service == Flow::NONE
        && flow.phase == Phase::New as u8
        && (!packet.is_tcp() || packet.is_syn())
        && frontend::of(&packet.key).is_some()
    {
        return Standing::Over;
    }
    let alive = flow.backend == Flow::NONE || maps::backend_alive(flow.backend, flow.generation);
    if packet.is_tcp() {
        if packet.is_syn() && (flow.phase >= Phase::Closing as u8 || !alive) {
            Standing::Over
        } else if alive {
            Standing::Good
        } else {
            Standing::BackendGone
        }
    } else if alive {
        Standing::Good
    } else {
        Standing::Moved
    }
}

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

/// The reverse entry that belongs to a forward one.
#[inline(always)]
pub fn reverse_of(key: &FlowKey, flow: &Flow, reverse: &mut Flow) {
    put(&mut reverse.src, key.dst, key.dport);
    put(&mut reverse.dst, key.src, key.sport);
    reverse.service = flow.service;
    reverse.backend = flow.backend;
    reverse.generation = flow.generation;
    reverse.first_seen = flow.first_seen;
    reverse.last_seen = flow.last_seen;
    reverse.previous_backend = flow.previous_backend;
    reverse.action = flow.action;
    reverse.phase = flow.phase;
    reverse.flags = flow.flags | Flow::REVERSE;
    reverse.syn_count = flow.syn_count;
    reverse.mac = [0; 6];
    reverse.beat = flow.beat;
}

/// Writes an endpoint word by word: a copy between map values would become a call that goes byte by byte.
#[inline(always)]
pub fn put(to: &mut Endpoint, addr: Addr, port: Port) {
    let words = addr.words();
    let to = core::ptr::from_mut(to).cast::<u32>();
    // SAFETY: an endpoint is five aligned words.
    unsafe {
        to.write_volatile(words[0]);
        to.add(1).write_volatile(words[1]);
        to.add(2).write_volatile(words[2]);
        to.add(3).write_volatile(words[3]);
        to.add(4).write_volatile(u32::from(port.word()).to_le());
    }
}

/// The key of a flow's packets in the other direction, as they show themselves where they enter: its
/// translated tuple, reversed.
#[inline(always)]
pub fn opposite(key: &FlowKey, flow: &Flow) -> FlowKey {
    FlowKey {
        src: flow.dst.addr,
        dst: flow.src.addr,
        sport: flow.dst.port,
        dport: flow.src.port,
        zone: key.zone,
        proto: key.proto,
        pad: 0,
    }
}
