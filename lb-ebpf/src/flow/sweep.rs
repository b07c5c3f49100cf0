//! Removal of idle flows. The agent reads the table in batches and passes the keys that look idle; the decision is
//! made here, next to the packets.

use aya_ebpf::programs::TcContext;
use lb_common::{Counter, Flow, FlowKey, SWEEP_BATCH, timeout};

use super::clock::now;
use super::tuple::opposite;
use crate::frame::layout::eth;
use crate::frame::{Headers, Packet};
use crate::global::global;
use crate::maps;

/// The frame holds keys behind an Ethernet header. Returns how many flows were removed.
#[inline(always)]
pub fn remove_idle(ctx: &TcContext) -> i32 {
    let packet = Packet { skb: ctx.skb.skb, headers: &mut Headers::unread() };
    let now = now();
    let mut removed = 0;
    for i in 0..SWEEP_BATCH as u32 {
        let Some(words) = packet.load::<[u32; 10]>(eth::LEN + i * size_of::<FlowKey>() as u32) else { break };
        // SAFETY: same size and alignment, and any bit pattern is a key.
        let key = unsafe { core::mem::transmute::<[u32; 10], FlowKey>(words) };
        removed += remove_if_idle(&key, now);
    }
    removed
}

global!(
    /// Removes the entry if it is idle at this tick; returns how many were removed.
    fn remove_if_idle(key: &FlowKey, now: u32) -> i32 = remove, null: 0
);

#[inline(always)]
fn remove(key: &FlowKey, now: u32) -> i32 {
    let Some(flow) = maps::flow_here(key) else { return 0 };
    let Some(phase) = flow.phase() else { return 0 };
    let counts = flow.is_live() && !flow.is_reverse();
    let idle = now.saturating_sub(flow.last_seen);
    let limit = timeout::idle(key.proto, flow.phase_of_timeout(phase));
    let is_over = idle > limit || idle > timeout::UNNEEDED && !is_needed(key, flow);
    // Its reverse entry leaves with it: each would be judged when another share of the table is full.
    let is_early =
        idle > timeout::EARLY && !flow.is_reverse() && flow.may_leave_early() && maps::is_nearly_full();
    let other = opposite(key, flow);
    if !is_over && !is_early || !maps::flow_remove(key) {
        return 0;
    }
    if counts {
        maps::count_swept(key);
    }
    maps::count(Counter::FlowExpired);
    if !is_over && maps::flow_remove(&other) {
        maps::count(Counter::FlowExpired);
        return 2;
    }
    1
}

/// Whether the flow's backend is there; of a direct flow, whether its destination may be a backend's.
#[inline(always)]
fn is_needed(key: &FlowKey, flow: &Flow) -> bool {
    if flow.has_service() {
        return maps::backend_alive(flow.backend, flow.generation);
    }
    let (addr, port) = if flow.is_reverse() { (key.src, key.sport) } else { (key.dst, key.dport) };
    maps::interesting(addr, port, key.proto)
}
