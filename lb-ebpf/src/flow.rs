//! Flows: found, opened, kept, closed.
//!
//! A flow is two entries, forward and reverse. It starts in the LRU of its protocol and moves to `flows` when
//! it is assured, so that a flood of requests evicts neither established connections nor each other's kind.

use core::ffi::{c_long, c_void};

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_loop};
use lb_common::{
    Action, Addr, Counter, Endpoint, Flow, FlowKey, Phase, Port, Proto, ServiceRecord, TICK_SHIFT, timeout,
};

use crate::maps::{self, Pair, Part};
use crate::packet::{Packet, TCP_FIN, TCP_RST, TCP_SYN, is_syn, opposite};
use crate::select;

const EEXIST: i32 = -17;

/// Source ports for a tuple that is taken: above the default range of ephemeral ports (32768-60999).
const PORT_FIRST: u32 = 61_000;
const PORT_COUNT: u32 = 4_536;
/// Source ports that are tried for one flow beside its own.
const TRIES: u32 = 16;

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
    /// UDP, and the backend is gone: another one takes the flow.
    Moved,
    /// TCP, and the backend is gone.
    BackendGone,
}

#[inline(always)]
pub fn standing(packet: &Packet, flow: &Flow) -> Standing {
    if flow.flags & Flow::REVERSE != 0 && flow.action != Action::Hairpin as u8 {
        return Standing::OtherWay;
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
fn refresh_reverse(key: &FlowKey, flow: &Flow, other: &FlowKey, part: Part) {
    match maps::flow(other) {
        Some((reverse, _)) => reverse.last_seen = flow.last_seen,
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

/// The reverse entry that belongs to a forward one.
#[inline(always)]
fn reverse_of(key: &FlowKey, flow: &Flow, reverse: &mut Flow) {
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
    1
}

/// What became of a packet without a flow.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Opened {
    /// It has one now, in the unassured part.
    Flow = 0,
    NotOurs = 1,
    UnknownFlow = 2,
    NoEndpoint = 3,
    NoLocalEndpoint = 4,
    NoPort = 5,
    Failed = 6,
}

/// Opens a flow: to a frontend's backend, or straight to a backend's own address. `previous` is the backend of
/// the flow that this one follows.
#[inline(always)]
pub fn open(packet: &Packet, previous: u32) -> Opened {
    match open_flow(&raw const packet.key, packet.tcp_flags, previous) {
        0 => Opened::Flow,
        1 => Opened::NotOurs,
        2 => Opened::UnknownFlow,
        3 => Opened::NoEndpoint,
        4 => Opened::NoLocalEndpoint,
        5 => Opened::NoPort,
        _ => Opened::Failed,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn open_flow(key: *const FlowKey, tcp_flags: u8, previous: u32) -> u32 {
    // SAFETY: null, or the caller's key.
    let Some(key) = (unsafe { key.as_ref() }) else { return Opened::Failed as u32 };
    open_or_say(key, tcp_flags, previous) as u32
}

#[inline(always)]
fn open_or_say(key: &FlowKey, tcp_flags: u8, previous: u32) -> Opened {
    let is_tcp = key.proto == Proto::Tcp as u8;
    let begins = !is_tcp || is_syn(tcp_flags);
    let Some(pair) = maps::scratch() else { return Opened::Failed };
    let Some(frontend) = maps::frontend(key.dst, key.dport, key.proto) else {
        if !begins {
            return Opened::NotOurs;
        }
        // A connection to an address and port that may be a backend's is recorded, so that it and translated
        // ones share one check for clashes. The bitmap says "may": a false positive is an entry too many.
        new_flow(key, &mut pair.forward, key.src, key.dst, key.dport);
        return insert(key, pair, Counter::FlowDirect);
    };
    if !begins {
        return if maps::adopt() { Opened::NotOurs } else { Opened::UnknownFlow };
    }
    let Some(record) = maps::service_record(frontend.service) else { return Opened::NotOurs };
    // Pods are inside the cluster, whatever kind of frontend they use: the internal policy is theirs.
    let local = record.flags & ServiceRecord::INTERNAL_LOCAL != 0;
    let range = if local { record.local } else { record.cluster };
    let Some((id, backend)) = select::random(range) else {
        let elsewhere = local && record.flags & ServiceRecord::HAS_ENDPOINTS != 0;
        return if elsewhere { Opened::NoLocalEndpoint } else { Opened::NoEndpoint };
    };
    let hairpin = backend.addr.same(key.src);
    // Both ends at once for a hairpin: the pod must not see its own address as the peer's, nor the stack a
    // packet whose source is local to the link it leaves by.
    let src = if hairpin { key.dst } else { key.src };
    let action = if hairpin { Action::Hairpin } else { Action::Stack };
    new_flow(key, &mut pair.forward, src, backend.addr, backend.port);
    pair.forward.service = frontend.service;
    pair.forward.backend = id;
    pair.forward.generation = backend.generation;
    pair.forward.previous_backend = previous;
    pair.forward.action = action as u8;
    insert(key, pair, Counter::FlowCreated)
}

/// Writes an endpoint word by word: a copy between map values would become a call that goes byte by byte.
#[inline(always)]
fn put(to: &mut Endpoint, addr: Addr, port: Port) {
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

/// Fills in a direct flow to this destination.
#[inline(always)]
fn new_flow(key: &FlowKey, flow: &mut Flow, src: Addr, dst: Addr, dport: Port) {
    let now = now();
    put(&mut flow.src, src, key.sport);
    put(&mut flow.dst, dst, dport);
    flow.service = Flow::NONE;
    flow.backend = Flow::NONE;
    flow.generation = 0;
    flow.first_seen = now;
    flow.last_seen = now;
    flow.previous_backend = Flow::NONE;
    flow.action = Action::Stack as u8;
    flow.phase = Phase::New as u8;
    flow.flags = 0;
    flow.syn_count = u8::from(key.proto == Proto::Tcp as u8);
    flow.mac = [0; 6];
    flow.beat = beat();
}

/// Inserts both entries, reverse first. A reverse tuple that belongs to another live flow is a clash: another
/// source port is tried.
#[inline(always)]
fn insert(key: &FlowKey, pair: &mut Pair, counter: Counter) -> Opened {
    pair.other = opposite(key, &pair.forward);
    // No try changes the reverse entry.
    reverse_of(key, &pair.forward, &mut pair.reverse);
    let mut claim = claim(pair);
    if claim == Claim::Taken {
        claim = claim_another_port(pair);
        if claim == Claim::Ours {
            maps::count(Counter::ClashResolved);
        }
    }
    match claim {
        Claim::Ours => {}
        Claim::Taken => return Opened::NoPort,
        Claim::Failed => return Opened::Failed,
    }
    let flow = &mut pair.forward;
    flow.src.port = pair.other.dport;
    if flow.action == Action::Hairpin as u8 {
        // The pod's reply goes to the source that it was shown.
        maps::set_interesting(flow.src.addr, flow.src.port, key.proto);
    }
    match maps::flow_insert_new(Part::Unassured, key, flow) {
        Ok(()) => {}
        Err(EEXIST) => {
            // Another CPU opened the same flow: its reverse entry stands, ours goes, unless they are one.
            let Some(winner) = maps::flow_in(Part::Unassured, key) else { return Opened::Failed };
            if !winner.dst.addr.same(flow.dst.addr) || winner.src.port != flow.src.port {
                maps::flow_remove(Part::Unassured, &pair.other);
            }
            return Opened::Flow;
        }
        Err(_) => {
            maps::flow_remove(Part::Unassured, &pair.other);
            return Opened::Failed;
        }
    }
    maps::count(counter);
    if flow.service != Flow::NONE {
        maps::account(flow.service, flow.backend, |traffic| traffic.connections += 1);
    }
    Opened::Flow
}

/// Tries other source ports for a tuple that is taken.
#[inline(never)]
fn claim_another_port(pair: &mut Pair) -> Claim {
    // SAFETY: a plain helper call.
    let start = unsafe { bpf_get_prandom_u32() };
    let mut search = Search { pair, start, claim: Claim::Taken };
    // SAFETY: the callback gets this very context; `bpf_loop` calls it before it returns. A loop of the
    // program's own would be verified once a turn.
    unsafe {
        bpf_loop(TRIES, try_port as *mut c_void, (&raw mut search).cast(), 0);
    }
    search.claim
}

struct Search<'a> {
    pair: &'a mut Pair,
    start: u32,
    claim: Claim,
}

/// One turn of the search; 1 ends it.
unsafe extern "C" fn try_port(turn: u32, search: *mut c_void) -> c_long {
    // SAFETY: `claim_another_port` passed it.
    let search = unsafe { &mut *search.cast::<Search>() };
    let port = PORT_FIRST + (search.start.wrapping_add(turn * 283)) % PORT_COUNT;
    search.pair.other.dport = Port::new(port as u16);
    search.claim = claim(search.pair);
    c_long::from(search.claim != Claim::Taken)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    Ours = 0,
    Taken = 1,
    Failed = 2,
}

fn claim(pair: &mut Pair) -> Claim {
    match claim_tuple(pair) {
        0 => Claim::Ours,
        1 => Claim::Taken,
        _ => Claim::Failed,
    }
}

/// Takes the reverse tuple `other`, unless a live flow has it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn claim_tuple(pair: *mut Pair) -> u32 {
    // SAFETY: null, or this CPU's scratch.
    let Some(pair) = (unsafe { pair.as_mut() }) else { return Claim::Failed as u32 };
    let Pair { reverse, other, stale, .. } = pair;
    match maps::flow_insert_new(Part::Unassured, other, reverse) {
        // The tuple's owner may have moved to `flows`, which the insert did not see.
        Ok(()) if maps::flow_in(Part::Assured, other).is_none() => return Claim::Ours as u32,
        Ok(()) => {
            maps::flow_remove(Part::Unassured, other);
            return Claim::Taken as u32;
        }
        Err(EEXIST) => {}
        Err(_) => return Claim::Failed as u32,
    }
    let Some(owner) = maps::flow_in(Part::Unassured, other) else { return Claim::Taken as u32 };
    let same = owner.src.addr.same(reverse.src.addr)
        && owner.src.port == reverse.src.port
        && owner.dst.addr.same(reverse.dst.addr)
        && owner.dst.port == reverse.dst.port;
    let Some(phase) = Phase::from_u8(owner.phase) else { return Claim::Taken as u32 };
    let idle = reverse.first_seen.wrapping_sub(owner.last_seen);
    if owner.flags & Flow::REVERSE == 0
        || !(same || phase == Phase::Closed || idle > timeout::idle(other.proto, phase))
    {
        return Claim::Taken as u32;
    }
    // Left over from this very client, or from a connection that has ended.
    if !same {
        *stale = opposite(other, owner);
        maps::flow_remove(Part::Unassured, stale);
    }
    match maps::flow_insert(Part::Unassured, other, reverse) {
        Ok(()) => Claim::Ours as u32,
        Err(_) => Claim::Failed as u32,
    }
}
