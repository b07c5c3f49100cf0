//! The two entries of a flow: from one to the other.

use lb_common::{Addr, Endpoint, Flow, FlowKey, Port};

use super::clock::beat;
use crate::maps;

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
    reverse.doubted = 0;
    reverse.end = 0;
    reverse.ack = 0;
    reverse.link = 0;
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

/// Lets the reply to a hairpin packet pass the bitmaps: the pod sends the reply to the source that it was shown.
#[inline(always)]
pub fn expect_reply_of_hairpin(key: &FlowKey, flow: &Flow) {
    let (addr, port) = (flow.src.addr, flow.src.port);
    // The address of a ClusterIP passes in any case.
    let passes = maps::near_service(addr, port) || maps::interesting(addr, port, key.proto);
    if !passes && maps::may_set_bit(beat()) {
        maps::set_interesting(addr, port, key.proto);
    }
}

/// The key of a flow's packets in the other direction at the hook where they enter: the translated tuple, reversed.
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
