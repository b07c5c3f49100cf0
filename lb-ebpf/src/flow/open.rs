//! Opens a flow: chooses the backend, takes a tuple that nobody has, writes both entries.

use core::ffi::{c_long, c_void};

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_loop};
use lb_common::{
    Action, Addr, Counter, Flow, FlowKey, FrontendKind, Phase, Port, Proto, RangeRule, ServiceRecord, timeout,
};

use super::clock::{beat, now};
use super::tuple::{opposite, put, reverse_of};
use crate::frame::{Packet, is_syn};
use crate::maps::{self, EEXIST, Pair, Part};
use crate::service::{self, Lack, frontend};

/// Source ports for a tuple that is taken: above the default range of ephemeral ports (32768-60999).
const PORT_FIRST: u32 = 61_000;
const PORT_COUNT: u32 = 4_536;
/// Source ports that are tried for one flow beside its own.
const TRIES: u32 = 16;

/// What became of a packet without a flow.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Opened {
    /// It has one now.
    Flow = 0,
    NotOurs = 1,
    UnknownFlow = 2,
    NoEndpoint = 3,
    NoLocalEndpoint = 4,
    NoPort = 5,
    Failed = 6,
    /// A load balancer address, and the client is in none of its source ranges.
    NotAdmitted = 7,
    /// A ClusterIP, and no Service port of that number.
    UnknownPort = 8,
    /// An address of the range of Services that no Service has.
    Unallocated = 9,
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
        7 => Opened::NotAdmitted,
        8 => Opened::UnknownPort,
        9 => Opened::Unallocated,
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
    // Loopback is for processes of the node: what comes by a link to it is none of them (CVE-2020-8558).
    if key.dst.is_loopback() {
        return Opened::NotOurs;
    }
    let Some(pair) = maps::scratch() else { return Opened::Failed };
    let Some(frontend) = frontend::of(key) else { return without_frontend(key, is_tcp, begins, pair) };
    if !begins {
        // At a NodePort's number, a socket of the node may be in the middle of a connection of its own; where it has none, the
        // node itself says so.
        let is_the_nodes = maps::adopt() || frontend.kind == FrontendKind::NodePort as u8;
        return if is_the_nodes { Opened::NotOurs } else { Opened::UnknownFlow };
    }
    let Some(record) = maps::service_record(frontend.service) else { return Opened::NotOurs };
    if frontend.kind == FrontendKind::LoadBalancer as u8
        && record.flags & ServiceRecord::SOURCE_RANGES != 0
        && !maps::is_admitted(key.src, frontend.service)
    {
        return Opened::NotAdmitted;
    }
    let (slot, backend) = match service::choose(&frontend, record, key.src) {
        Ok(chosen) => chosen,
        Err(Lack::NoEndpoint) => return Opened::NoEndpoint,
        Err(Lack::NoLocalEndpoint) => return Opened::NoLocalEndpoint,
    };
    if key.proto == Proto::Sctp as u8 && backend.port != key.dport {
        return Opened::NoEndpoint;
    }
    let hairpin = backend.addr.same(key.src);
    // Both ends at once for a hairpin: the pod must not see its own address as the peer's, nor the stack a
    // packet whose source is local to the link it leaves by.
    let src = if hairpin { key.dst } else { key.src };
    let action = if hairpin { Action::Hairpin } else { Action::Stack };
    new_flow(key, &mut pair.forward, src, backend.addr, backend.port);
    pair.forward.service = frontend.service;
    pair.forward.backend = slot.backend;
    pair.forward.generation = slot.generation;
    pair.forward.previous_backend = previous;
    pair.forward.action = action as u8;
    insert(key, pair, Counter::FlowCreated)
}

/// A port that no Service has; a packet that only looked like one for a Service; or a connection straight to a
/// backend.
#[inline(always)]
fn without_frontend(key: &FlowKey, is_tcp: bool, begins: bool, pair: &mut Pair) -> Opened {
    match maps::range_rule(key.dst) {
        Some(RangeRule::ClusterIp) if is_tcp && !begins && maps::adopt() => return Opened::NotOurs,
        Some(RangeRule::ClusterIp) => return Opened::UnknownPort,
        Some(RangeRule::Unallocated) => return Opened::Unallocated,
        Some(RangeRule::Others) => return Opened::NotOurs,
        None => {}
    }
    if !begins || !maps::interesting(key.dst, key.dport, key.proto) {
        return Opened::NotOurs;
    }
    // A connection to an address and port that may be a backend's is recorded, so that it and translated ones
    // share one check for clashes. The bitmap says "may": a false positive is an entry too many.
    new_flow(key, &mut pair.forward, key.src, key.dst, key.dport);
    insert(key, pair, Counter::FlowDirect)
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
    if claim == Claim::Taken && key.proto != Proto::Sctp as u8 {
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
    maps::bring_over(other);
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
