//! The flow table, its predecessors during a change of tables, and room for a flow in the making.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use lb_common::{CROWDED, Flow, FlowKey, LIVE_COUNTS, SHARE, capacity, client_group};

use super::EEXIST;
use super::atomic::fetch_add;
use super::flags::{MMAPABLE, NO_PREALLOC};
use crate::global::global;
use crate::settings::{self, ReadThrough};

#[btf_map(name = "flows")]
static FLOWS: HashMap<FlowKey, Flow, { capacity::FLOWS }, NO_PREALLOC> = HashMap::new();
/// The number of live flows, as [`Flow::is_live`] defines them, and of those of each group of clients. The agent corrects
/// the numbers at each sweep.
#[btf_map(name = "flows_live")]
static FLOWS_LIVE: Array<u64, LIVE_COUNTS, MMAPABLE> = Array::new();
/// The previous flow table while other tables take its place; otherwise one entry, and never read. An entry that only
/// the previous table has is taken over by the first packet that asks for it.
#[btf_map(name = "old_flows")]
static OLD_FLOWS: HashMap<FlowKey, Flow, 1, NO_PREALLOC> = HashMap::new();
/// The other parts of the previous flow table if that was one of the schemas 1 and 2.
#[btf_map(name = "old_flows_syn")]
static OLD_FLOWS_SYN: LruHashMap<FlowKey, Flow, 1> = LruHashMap::new();
#[btf_map(name = "old_flows_udp")]
static OLD_FLOWS_UDP: LruHashMap<FlowKey, Flow, 1> = LruHashMap::new();

/// Room for a flow in the making, because the stack is 512 bytes for all frames together. Programs on links do not nest
/// on a CPU: they run with softirqs off. (The sweep does not, before Linux 6.2.)
#[btf_map(name = "scratch")]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// What a CPU has for itself.
#[repr(C)]
pub struct Scratch {
    pub forward: Flow,
    pub reverse: Flow,
    /// An entry on its way from the previous table.
    old: Flow,
    /// Key of `reverse`.
    pub other: FlowKey,
    /// Key of an entry that is in the way and has ended.
    pub stale: FlowKey,
    /// Live flows that came and went on this CPU and are not in `flows_live` yet.
    uncounted: i32,
    /// The beat of `bits`.
    beat: u16,
    /// Bits of `interest` that were set on this CPU in this beat.
    bits: u16,
}

/// This CPU's room for a flow in the making; its content is what another packet left.
#[inline(always)]
pub fn scratch<'a>() -> Option<&'a mut Scratch> {
    // SAFETY: this CPU's own value, never held twice at once.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

/// A flow of this table. The pointer is good for reading and for plain stores until the entry is deleted; a torn or
/// lost store costs a counter or a second of idle time, never a wrong rewrite.
#[inline(always)]
pub fn flow_here<'a>(key: &FlowKey) -> Option<&'a mut Flow> {
    // SAFETY: the kernel gave a pointer to a live value of this type.
    FLOWS.get_ptr_mut(key).map(|entry| unsafe { &mut *entry })
}

/// A flow of this table, or of the previous one.
#[inline(always)]
pub fn flow<'a>(key: &FlowKey) -> Option<&'a mut Flow> {
    match flow_here(key) {
        None if settings::read_through() != ReadThrough::Nothing && take_over(key) => flow_here(key),
        found => found,
    }
}

/// Copies an entry from the previous table, if that table has the entry and this one has not.
#[inline(always)]
pub fn bring_over(key: &FlowKey) {
    if settings::read_through() != ReadThrough::Nothing {
        take_over(key);
    }
}

global!(
    /// Copies an entry from the previous table, and returns whether this table has it now. The entry stays there, too,
    /// for a link whose other direction still has its previous program.
    fn take_over(key: &FlowKey) -> bool = copy_previous, null: false
);

#[inline(always)]
fn copy_previous(key: &FlowKey) -> bool {
    let is_v2 = settings::read_through() == ReadThrough::V2;
    let old = match OLD_FLOWS.get_ptr(key) {
        None if is_v2 => {
            let lru = if key.is_tcp() { OLD_FLOWS_SYN.get_ptr(key) } else { OLD_FLOWS_UDP.get_ptr(key) };
            // A program of before may have moved the entry meanwhile.
            lru.or_else(|| OLD_FLOWS.get_ptr(key))
        }
        found => found,
    };
    let (Some(old), Some(scratch)) = (old, scratch()) else { return false };
    let (from, to) = (old.cast::<u32>(), (&raw mut scratch.old).cast::<u32>());
    for word in 0..size_of::<Flow>() / 4 {
        // SAFETY: an entry is words, of which those of the older schemas are the first.
        unsafe {
            let value = if is_v2 && word >= Flow::LEN_V2 / 4 { 0 } else { from.add(word).read_volatile() };
            to.add(word).write_volatile(value);
        }
    }
    // Another CPU may have been faster.
    matches!(flow_insert_new(key, &scratch.old), Ok(()) | Err(EEXIST))
}

/// Removes an entry from the previous table, so that it is not copied back.
#[inline(always)]
pub fn forget_previous(key: &FlowKey) {
    if settings::read_through() == ReadThrough::Nothing {
        return;
    }
    // The entry may well be absent.
    let _ = OLD_FLOWS.remove(key);
    if settings::read_through() == ReadThrough::V2 {
        let _ = if key.is_tcp() { OLD_FLOWS_SYN.remove(key) } else { OLD_FLOWS_UDP.remove(key) };
    }
}

/// Inserts a flow that must not be there. The error is the kernel's (`-EEXIST`, `-E2BIG`, `-ENOMEM`, ...).
#[inline(always)]
pub fn flow_insert_new(key: &FlowKey, flow: &Flow) -> Result<(), i32> {
    FLOWS.insert(key, flow, u64::from(BPF_NOEXIST))
}

#[inline(always)]
pub fn flow_insert(key: &FlowKey, flow: &Flow) -> Result<(), i32> {
    FLOWS.insert(key, flow, u64::from(BPF_ANY))
}

/// Deletes a flow; returns whether the flow was there.
#[inline(always)]
pub fn flow_remove(key: &FlowKey) -> bool {
    FLOWS.remove(key).is_ok()
}

/// How many bits of `interest` a CPU may set in a beat: a pod must not fill the bitmap with flows to itself.
const BITS_OF_A_BEAT: u16 = 1_024;

/// Whether this CPU may set another bit of `interest` in this beat.
#[inline(always)]
pub fn may_set_bit(beat: u16) -> bool {
    let Some(scratch) = scratch() else { return false };
    if scratch.beat != beat {
        scratch.beat = beat;
        scratch.bits = 0;
    }
    if scratch.bits >= BITS_OF_A_BEAT {
        return false;
    }
    scratch.bits += 1;
    true
}

/// How many live flows may come or go on a CPU before all CPUs know.
const UNCOUNTED: i32 = 32;

/// Counts live flows of this key's client that came (1) or went (-1).
#[inline(always)]
pub fn count_live(key: &FlowKey, change: i32) {
    add_live(client_group(key.src), change);
    let Some(scratch) = scratch() else { return };
    let uncounted = scratch.uncounted + change;
    if uncounted < UNCOUNTED && uncounted > -UNCOUNTED {
        scratch.uncounted = uncounted;
        return;
    }
    scratch.uncounted = 0;
    add_live(0, uncounted);
}

/// Counts a live flow of this key's client that the sweep removed. The sweep may be interrupted by packets, so that it
/// does not touch what this CPU has for them.
#[inline(always)]
pub fn count_swept(key: &FlowKey) {
    add_live(client_group(key.src), -1);
    add_live(0, -1);
}

#[inline(always)]
fn add_live(index: u32, change: i32) {
    if let Some(live) = FLOWS_LIVE.get_ptr_mut(index) {
        // SAFETY: a valid map value for the program's duration.
        unsafe { fetch_add(live, i64::from(change) as u64) };
    }
}

/// Whether there is room for another live flow of this key's client. When the room becomes scarce, a client that has
/// much of it gets no more.
#[inline(always)]
pub fn has_room(key: &FlowKey) -> bool {
    let eighth = i64::from(settings::max_live()) / 8;
    let all = live(0);
    all < eighth * i64::from(CROWDED)
        || all < i64::from(settings::max_live()) && live(client_group(key.src)) < eighth * i64::from(SHARE)
}

/// Whether live flows have taken nine tenths of their room.
#[inline(always)]
pub fn is_nearly_full() -> bool {
    live(0) >= i64::from(settings::max_live()) / 10 * 9
}

#[inline(always)]
fn live(index: u32) -> i64 {
    // A count may be a little below 0 after a correction.
    FLOWS_LIVE.get(index).map_or(0, |live| *live as i64)
}
