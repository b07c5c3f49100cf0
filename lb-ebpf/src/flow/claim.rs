//! Claiming a tuple: no two live flows may have the same reverse tuple.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use lb_common::{Phase, Port, timeout, wire_enum};

use super::tuple::opposite;
use crate::global::{answer, global};
use crate::maps::{self, EEXIST, Scratch};

/// Source ports for a tuple that is taken: above the default range of ephemeral ports (32768-60999).
const PORT_FIRST: u32 = 61_000;
const PORT_COUNT: u32 = 4_536;
/// Source ports that are tried for a flow in addition to its own.
const TRIES: u32 = 16;

wire_enum! {
    /// The outcome of a claim.
    pub enum Claim: u32 {
        Ours = 0,
        Taken = 1,
        Failed = 2,
    }
}

answer!(Claim, Failed);

global!(
    /// Takes the reverse tuple `other` of this CPU's scratch, unless a live flow has it.
    pub fn claim_tuple() -> Claim = claim
);

#[inline(always)]
fn claim() -> Claim {
    let Some(scratch) = maps::scratch() else { return Claim::Failed };
    let Scratch { reverse, other, stale, .. } = scratch;
    maps::bring_over(other);
    match maps::flow_insert_new(other, reverse) {
        Ok(()) => return Claim::Ours,
        Err(EEXIST) => {}
        Err(_) => return Claim::Failed,
    }
    let Some(owner) = maps::flow_here(other) else { return Claim::Taken };
    let same = owner.src.addr.same(reverse.src.addr)
        && owner.src.port == reverse.src.port
        && owner.dst.addr.same(reverse.dst.addr)
        && owner.dst.port == reverse.dst.port;
    let Some(phase) = owner.phase() else { return Claim::Taken };
    let idle = reverse.first_seen.wrapping_sub(owner.last_seen);
    if !owner.is_reverse() || !(same || phase == Phase::Closed || idle > timeout::idle(other.proto, phase)) {
        return Claim::Taken;
    }
    // The entry is left over from this same client, or from a connection that has ended.
    if !same {
        let counts = owner.is_live();
        *stale = opposite(other, owner);
        if maps::flow_remove(stale) && counts {
            maps::count_live(stale, -1);
        }
    }
    match maps::flow_insert(other, reverse) {
        Ok(()) => Claim::Ours,
        Err(_) => Claim::Failed,
    }
}

/// Tries other source ports for a tuple that is taken.
#[inline(always)]
pub fn claim_another_port() -> Claim {
    // SAFETY: a plain helper call.
    let start = unsafe { bpf_get_prandom_u32() };
    for turn in 0..TRIES {
        let Some(scratch) = maps::scratch() else { return Claim::Failed };
        let port = PORT_FIRST + (start.wrapping_add(turn * 283)) % PORT_COUNT;
        scratch.other.dport = Port::new(port as u16);
        match claim_tuple() {
            Claim::Taken => {}
            ended => return ended,
        }
    }
    Claim::Taken
}
