//! Removal of idle flows. The agent reads the table in batches and passes the keys that look idle; only here,
//! beside the packets, is it decided.

use aya_ebpf::programs::TcContext;
use lb_common::{Counter, FlowKey, Phase, SWEEP_BATCH, timeout};

use super::clock::now;
use crate::frame::{ETH_LEN, Headers, Packet};
use crate::maps::{self, Part};

/// The frame holds keys behind an Ethernet header. Returns how many flows were removed.
#[inline(always)]
pub fn remove_idle(ctx: &TcContext) -> i32 {
    let packet = Packet { skb: ctx.skb.skb, headers: &mut Headers::unread() };
    let now = now();
    let mut removed = 0;
    for i in 0..SWEEP_BATCH as u32 {
        let Some(words) = packet.load::<[u32; 10]>(ETH_LEN + i * size_of::<FlowKey>() as u32) else { break };
        // SAFETY: same size and alignment, and any bit pattern is a key.
        let key = unsafe { core::mem::transmute::<[u32; 10], FlowKey>(words) };
        removed += remove_if_idle(&key, now);
    }
    removed
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn remove_if_idle(key: *const FlowKey, now: u32) -> i32 {
    // SAFETY: null, or the caller's key.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    let mut removed = 0;
    for part in [Part::Assured, Part::Unassured] {
        let Some(flow) = maps::flow_in(part, key) else { continue };
        let Some(phase) = Phase::from_u8(flow.phase) else { continue };
        if now.saturating_sub(flow.last_seen) > timeout::idle(key.proto, phase)
            && maps::flow_remove(part, key)
        {
            maps::count(Counter::FlowExpired);
            removed += 1;
        }
    }
    removed
}
