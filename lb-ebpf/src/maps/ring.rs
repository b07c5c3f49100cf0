//! The rings, and the turn of each of their shards.

use aya_ebpf::{btf_maps::Array, helpers::bpf_get_smp_processor_id, macros::btf_map};
use lb_common::{RING_SHARDS, Ring, RingSlot, capacity};

use super::atomic::fetch_add;
use crate::settings;

#[btf_map(name = "rings")]
static RINGS: Array<RingSlot, { capacity::RINGS }> = Array::new();
/// How many slots of each shard were taken, a cache line for each. It begins anew with each loaded object, which does
/// no harm: some slots are taken again earlier than others.
#[btf_map(name = "ring_turns")]
static TURNS: Array<[u64; 8], { Ring::COUNT * RING_SHARDS }> = Array::new();

/// Takes the next slot of this CPU's shard.
#[inline(always)]
pub fn take_slot<'a>(ring: Ring) -> Option<&'a mut RingSlot> {
    // SAFETY: a plain helper call.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let shards = settings::shards();
    let shard = ring.number() * shards + (cpu & (shards - 1));
    let turns = TURNS.get_ptr_mut(shard)?;
    // SAFETY: a valid map value for the program's duration.
    let turn = unsafe { fetch_add(turns.cast(), 1) } as u32;
    let slots = settings::shard_slots();
    let slot = RINGS.get_ptr_mut(shard * slots + (turn & (slots - 1)))?;
    // SAFETY: a valid map value. Another CPU has the same slot only if the shard went round meanwhile; an entry of two
    // halves is the key of no flow.
    Some(unsafe { &mut *slot })
}
