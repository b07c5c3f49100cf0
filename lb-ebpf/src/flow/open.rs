//! Opens a flow: chooses the backend, claims a tuple, writes both entries.

use lb_common::{
    Action, Addr, Counter, Flow, FlowKey, Frontend, FrontendKind, Phase, Port, RangeRule, Ring,
    ServiceRecord, wire_enum,
};

use super::claim::{Claim, claim_another_port, claim_tuple};
use super::clock::{beat, now};
use super::ring;
use super::tuple::{expect_reply_of_hairpin, opposite, put, reverse_of};
use crate::frame::is_syn;
use crate::global::{answer, global};
use crate::maps::{self, EEXIST, Scratch};
use crate::service::{self, Lack, find_frontend};
use crate::settings;

wire_enum! {
    /// What became of a packet without a flow.
    pub enum Opened: u32 {
        /// The packet has a flow now: the forward entry is in this CPU's scratch.
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
}

answer!(Opened, Failed);

/// Opens a flow, to a backend of a frontend or straight to a backend's own address. `previous` is the backend of the
/// flow that this one follows, `link` the interface index of the link by which the packet came. The steps are called one
/// after the other: nested, their stacks would not fit into the verifier's 512 bytes.
#[inline(always)]
pub fn open_flow(key: &FlowKey, tcp_flags: u8, previous: u32, link: u32) -> Opened {
    match prepare_flow(key, find_frontend(key), tcp_flags, previous, link) {
        Opened::Flow => insert_flow(key),
        refused => refused,
    }
}

global!(
    /// Decides about a packet without a flow, and fills in the forward entry of its flow in this CPU's scratch.
    fn prepare_flow(key: &FlowKey, frontend: Option<Frontend>, tcp_flags: u8, previous: u32, link: u32) -> Opened =
        prepare, null: Opened::Failed
);

#[inline(always)]
fn prepare(key: &FlowKey, frontend: Option<Frontend>, tcp_flags: u8, previous: u32, link: u32) -> Opened {
    let begins = !key.is_tcp() || is_syn(tcp_flags);
    // Loopback is for processes of the node, which do not send over a link (CVE-2020-8558).
    if key.dst.is_loopback() {
        return Opened::NotOurs;
    }
    let Some(scratch) = maps::scratch() else { return Opened::Failed };
    scratch.forward.link = link;
    let Some(frontend) = frontend else { return without_frontend(key, begins, scratch) };
    if !begins {
        // At a NodePort's number, a socket of the node may be in the middle of a connection of its own; if there is no
        // such connection, the node itself says so.
        let is_the_nodes = settings::adopt() || frontend.is(FrontendKind::NodePort);
        return if is_the_nodes { Opened::NotOurs } else { Opened::UnknownFlow };
    }
    let Some(record) = maps::service_record(frontend.service) else { return Opened::NotOurs };
    if frontend.is(FrontendKind::LoadBalancer)
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
    if key.is_sctp() && backend.port != key.dport {
        return Opened::NoEndpoint;
    }
    let hairpin = backend.addr.same(key.src);
    // A hairpin has both ends translated at once: the pod must not see its own address as the peer's, and the stack
    // must not see a packet whose source is local to the link by which it leaves.
    let src = if hairpin { key.dst } else { key.src };
    let action = if hairpin { Action::Hairpin } else { Action::Stack };
    new_flow(key, &mut scratch.forward, src, backend.addr, backend.port);
    scratch.forward.service = frontend.service;
    scratch.forward.backend = slot.backend;
    scratch.forward.generation = slot.generation;
    scratch.forward.previous_backend = previous;
    scratch.forward.action = action.number();
    Opened::Flow
}

/// Decides about a packet without a frontend: to a port that no Service has, to an address that only looked like a
/// Service's, or straight to a backend.
#[inline(always)]
fn without_frontend(key: &FlowKey, begins: bool, scratch: &mut Scratch) -> Opened {
    match maps::range_rule(key.dst) {
        Some(RangeRule::ClusterIp | RangeRule::Unallocated) if !begins && settings::adopt() => {
            return Opened::NotOurs;
        }
        Some(RangeRule::ClusterIp) => return Opened::UnknownPort,
        // A connection through a Service that is gone: its client should learn.
        Some(RangeRule::Unallocated) if !begins => return Opened::UnknownFlow,
        Some(RangeRule::Unallocated) => return Opened::Unallocated,
        Some(RangeRule::Others) => return Opened::NotOurs,
        None => {}
    }
    if !begins || !maps::interesting(key.dst, key.dport, key.proto) {
        return Opened::NotOurs;
    }
    // A connection to an address and port that may be a backend's is recorded, so that direct and translated
    // connections share one check for clashes. A false positive of the bitmap costs an entry.
    new_flow(key, &mut scratch.forward, key.src, key.dst, key.dport);
    Opened::Flow
}

/// Fills in a direct flow to this destination, all but its link.
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
    flow.action = Action::Stack.number();
    flow.phase = Phase::New.number();
    flow.flags = 0;
    flow.syn_count = u8::from(key.is_tcp());
    flow.mac = [0; 6];
    flow.beat = beat();
    flow.doubted = 0;
    flow.end = 0;
    flow.ack = 0;
}

global!(
    /// Inserts both entries of the flow that is in this CPU's scratch, reverse first. A reverse tuple that belongs to
    /// another live flow is a clash: another source port is tried.
    fn insert_flow(key: &FlowKey) -> Opened = insert, null: Opened::Failed
);

#[inline(always)]
fn insert(key: &FlowKey) -> Opened {
    let Some(scratch) = maps::scratch() else { return Opened::Failed };
    // First, because this makes room in a full table.
    ring::enter(Ring::of_new(key), key, scratch.forward.first_seen);
    scratch.other = opposite(key, &scratch.forward);
    // The search for a port does not change the reverse entry.
    reverse_of(key, &scratch.forward, &mut scratch.reverse);
    let mut claim = claim_tuple();
    if claim == Claim::Taken && !key.is_sctp() {
        claim = claim_another_port();
        if claim == Claim::Ours {
            maps::count(Counter::ClashResolved);
        }
    }
    match claim {
        Claim::Ours => {}
        Claim::Taken => return Opened::NoPort,
        Claim::Failed => return Opened::Failed,
    }
    let Some(scratch) = maps::scratch() else { return Opened::Failed };
    let flow = &mut scratch.forward;
    flow.src.port = scratch.other.dport;
    if flow.is_hairpin() {
        expect_reply_of_hairpin(key, flow);
    }
    match maps::flow_insert_new(key, flow) {
        Ok(()) => {}
        Err(EEXIST) => {
            // Another CPU opened the same flow: its reverse entry stays, and ours is removed unless both are one entry.
            let Some(winner) = maps::flow_here(key) else { return Opened::Failed };
            if !winner.dst.addr.same(flow.dst.addr) || winner.src.port != flow.src.port {
                maps::flow_remove(&scratch.other);
            }
            put(&mut flow.src, winner.src.addr, winner.src.port);
            put(&mut flow.dst, winner.dst.addr, winner.dst.port);
            flow.service = winner.service;
            flow.backend = winner.backend;
            flow.action = winner.action;
            return Opened::Flow;
        }
        Err(_) => {
            maps::flow_remove(&scratch.other);
            return Opened::Failed;
        }
    }
    if flow.has_service() {
        maps::count(Counter::FlowCreated);
        maps::account(flow.service, flow.backend, |traffic| traffic.connections += 1);
    } else {
        maps::count(Counter::FlowDirect);
    }
    Opened::Flow
}
