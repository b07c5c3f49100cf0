//! Bounding flows that no far end has confirmed, and flows that have ended: each has a slot of a ring, and leaves when
//! the slot is taken again. A flood therefore evicts only flows of its own kind, whether an agent runs or not.

use lb_common::{Counter, FlowKey, Ring, RingSlot};

use super::clock::now;
use super::tuple::opposite;
use crate::global::global;
use crate::maps;

/// How many slots are passed over because their flows are in use.
const CHANCES: u32 = 2;
/// Ticks after its last packet for which a flow is in use.
const IN_USE: u32 = 2;

/// Puts a flow into a ring. `first_seen` is the flow's.
#[inline(always)]
pub fn enter(ring: Ring, key: &FlowKey, first_seen: u32) {
    enter_ring(ring.number(), key, first_seen);
}

global!(
    /// Puts a flow into the ring of this number.
    fn enter_ring(ring: u32, key: &FlowKey, first_seen: u32) -> () = put_into, null: ()
);

#[inline(always)]
fn put_into(ring: u32, key: &FlowKey, first_seen: u32) {
    let Some(ring) = Ring::from_number(ring) else { return };
    for turn in 0..=CHANCES {
        let Some(slot) = maps::take_slot(ring) else { return };
        if vacate(ring, slot, turn < CHANCES) {
            *slot = RingSlot { key: *key, first_seen, pad: 0 };
            return;
        }
    }
}

/// Removes the flow that has a slot if it is what the ring is for. Returns false if it stays, because it is in use. That
/// it was opened a moment ago does not count as use, else a flood would protect itself; nor do the last packets of a
/// flow that has ended.
#[inline(always)]
fn vacate(ring: Ring, slot: &RingSlot, may_stay: bool) -> bool {
    if slot.first_seen == 0 {
        return true;
    }
    let Some(flow) = maps::flow_here(&slot.key) else { return true };
    if flow.is_reverse() || flow.first_seen != slot.first_seen || !ring.is_for(flow) {
        return true;
    }
    let may_stay = may_stay && ring != Ring::Ended;
    if may_stay && flow.last_seen != flow.first_seen && now().wrapping_sub(flow.last_seen) <= IN_USE {
        return false;
    }
    let other = opposite(&slot.key, flow);
    maps::flow_remove(&slot.key);
    maps::flow_remove(&other);
    maps::count(Counter::FlowEvicted);
    true
}
