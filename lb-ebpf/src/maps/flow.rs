//! The three parts of the flow table, their predecessors during a change of tables, and room for a flow in the making.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    btf_maps::{HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use lb_common::{Flow, FlowKey, capacity};

use super::flags::NO_PREALLOC;
use crate::global::global;
use crate::settings;

#[btf_map(name = "flows")]
static FLOWS: HashMap<FlowKey, Flow, { capacity::FLOWS }, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "flows_syn")]
static FLOWS_SYN: LruHashMap<FlowKey, Flow, { capacity::FLOWS_UNASSURED }> = LruHashMap::new();
#[btf_map(name = "flows_udp")]
static FLOWS_UDP: LruHashMap<FlowKey, Flow, { capacity::FLOWS_UNASSURED }> = LruHashMap::new();
/// The previous flow table while tables of another size take its place; otherwise one entry each, and never read.
/// An entry that only the previous table has is taken over by the first packet that asks for it.
#[btf_map(name = "old_flows")]
static OLD_FLOWS: HashMap<FlowKey, Flow, 1, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "old_flows_syn")]
static OLD_FLOWS_SYN: LruHashMap<FlowKey, Flow, 1> = LruHashMap::new();
#[btf_map(name = "old_flows_udp")]
static OLD_FLOWS_UDP: LruHashMap<FlowKey, Flow, 1> = LruHashMap::new();

/// Room for a flow in the making, because the stack is 512 bytes for all frames together. Programs of tc and XDP do
/// not nest on a CPU: they run with softirqs off.
#[btf_map(name = "scratch")]
static SCRATCH: PerCpuArray<Pair, 1> = PerCpuArray::new();

/// The two entries of a flow, and the keys that are needed to store them.
#[repr(C)]
pub struct Pair {
    pub forward: Flow,
    pub reverse: Flow,
    /// Key of `reverse`.
    pub other: FlowKey,
    /// Key of an entry that is in the way and has ended.
    pub stale: FlowKey,
}

/// This CPU's room for a flow in the making; its content is what another packet left.
#[inline(always)]
pub fn scratch<'a>() -> Option<&'a mut Pair> {
    // SAFETY: this CPU's own value, never held twice at once.
    SCRATCH.get_ptr_mut(0).map(|pair| unsafe { &mut *pair })
}

/// The parts of the flow table. The protocol of the key decides which of the two LRUs is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// TCP whose handshake is complete; others whose far end has answered.
    Assured,
    /// The LRU of the protocol: half-open and closed TCP, or others without an answer.
    Unassured,
}

#[inline(always)]
fn lru_get(key: &FlowKey) -> Option<*mut Flow> {
    if key.is_tcp() { FLOWS_SYN.get_ptr_mut(key) } else { FLOWS_UDP.get_ptr_mut(key) }
}

/// A flow of one part of the table. The pointer is good for reading and for plain stores until the entry is
/// deleted; a torn or lost store costs a counter or a second of idle time, never a wrong rewrite.
#[inline(always)]
pub fn flow_in<'a>(part: Part, key: &FlowKey) -> Option<&'a mut Flow> {
    let entry = match part {
        Part::Assured => FLOWS.get_ptr_mut(key),
        Part::Unassured => lru_get(key),
    };
    // SAFETY: the kernel gave a pointer to a live value of this type.
    entry.map(|entry| unsafe { &mut *entry })
}

/// A flow, in whichever part it is.
#[inline(always)]
pub fn flow<'a>(key: &FlowKey) -> Option<(&'a mut Flow, Part)> {
    match flow_here(key) {
        None if settings::reads_through() && take_over(key) => flow_here(key),
        found => found,
    }
}

/// Copies an entry from the previous table, if that table has the entry and the same part of this one has not.
#[inline(always)]
pub fn bring_over(key: &FlowKey) {
    if settings::reads_through() {
        take_over(key);
    }
}

global!(
    /// Copies an entry from the previous table, and returns whether it did. The entry stays there, too, for a link
    /// whose other direction still has its previous program.
    fn take_over(key: &FlowKey) -> bool = copy_previous, null: false
);

#[inline(always)]
fn copy_previous(key: &FlowKey) -> bool {
    let (old, part) = match OLD_FLOWS.get_ptr(key) {
        Some(old) => (Some(old), Part::Assured),
        None if key.is_tcp() => (OLD_FLOWS_SYN.get_ptr(key), Part::Unassured),
        None => (OLD_FLOWS_UDP.get_ptr(key), Part::Unassured),
    };
    let Some(old) = old else { return false };
    // SAFETY: the kernel gave a pointer to a live value of this type.
    flow_insert_new(part, key, unsafe { &*old }).is_ok()
}

/// Removes an entry from the previous table, so that it is not copied back.
#[inline(always)]
pub fn forget_previous(key: &FlowKey) {
    if settings::reads_through() {
        // The entry may well be absent.
        let _ = OLD_FLOWS.remove(key);
        let _ = if key.is_tcp() { OLD_FLOWS_SYN.remove(key) } else { OLD_FLOWS_UDP.remove(key) };
    }
}

#[inline(always)]
fn flow_here<'a>(key: &FlowKey) -> Option<(&'a mut Flow, Part)> {
    if let Some(flow) = flow_in(Part::Assured, key) {
        return Some((flow, Part::Assured));
    }
    flow_in(Part::Unassured, key).map(|flow| (flow, Part::Unassured))
}

/// Inserts a flow that must not be there. The error is the kernel's (`-EEXIST`, `-E2BIG`, `-ENOMEM`, ...).
#[inline(always)]
pub fn flow_insert_new(part: Part, key: &FlowKey, flow: &Flow) -> Result<(), i32> {
    insert(part, key, flow, u64::from(BPF_NOEXIST))
}

#[inline(always)]
pub fn flow_insert(part: Part, key: &FlowKey, flow: &Flow) -> Result<(), i32> {
    insert(part, key, flow, u64::from(BPF_ANY))
}

#[inline(always)]
fn insert(part: Part, key: &FlowKey, flow: &Flow, flags: u64) -> Result<(), i32> {
    match part {
        Part::Assured => FLOWS.insert(key, flow, flags),
        Part::Unassured if key.is_tcp() => FLOWS_SYN.insert(key, flow, flags),
        Part::Unassured => FLOWS_UDP.insert(key, flow, flags),
    }
}

/// Deletes a flow from one part; returns whether the flow was there.
#[inline(always)]
pub fn flow_remove(part: Part, key: &FlowKey) -> bool {
    match part {
        Part::Assured => FLOWS.remove(key),
        Part::Unassured if key.is_tcp() => FLOWS_SYN.remove(key),
        Part::Unassured => FLOWS_UDP.remove(key),
    }
    .is_ok()
}
