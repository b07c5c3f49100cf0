//! Every table, with one accessor each: the `unsafe` of map pointers stands here and nowhere else.
//!
//! A pointer into a hash may be reused for another entry while it is held (the kernel recycles elements at
//! once). What a packet needs is therefore copied out early, and never read again after a delete.

use aya_ebpf::{
    Global,
    bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray},
    macros::btf_map,
    maps::lpm_trie::Key,
};
use lb_common::{
    Addr, Affinity, AffinityKey, Backend, COARSE_FIRST, COARSE_WORDS, COUNTERS, Counter, Flow, FlowKey,
    Frontend, FrontendKey, INTEREST_WORDS, Port, Prefix, Proto, RangeRule, Service, ServiceName,
    ServiceRecord, Slot, SlotRange, Socket, SocketKey, SourceClient, Traffic, capacity, interest_bit,
    node_bit, port_bit, range_bit,
};

/// The error of an insert of a key that is there.
pub const EEXIST: i32 = -17;

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map(name = "interest")]
static INTEREST: Array<u64, INTEREST_WORDS, MMAPABLE> = Array::new();
#[btf_map(name = "interest_coarse")]
static INTEREST_COARSE: Array<u64, COARSE_WORDS, MMAPABLE> = Array::new();
#[btf_map(name = "frontends")]
static FRONTENDS: HashMap<FrontendKey, Frontend, { capacity::FRONTENDS }, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "local_addrs")]
static LOCAL_ADDRS: HashMap<Addr, u32, { capacity::LOCAL_ADDRS }, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "service_ranges")]
static SERVICE_RANGES: LpmTrie<Addr, u32, { capacity::SERVICE_RANGES }> = LpmTrie::new();
#[btf_map(name = "source_ranges")]
static SOURCE_RANGES: LpmTrie<SourceClient, u32, { capacity::SOURCE_RANGES }> = LpmTrie::new();
#[btf_map(name = "affinity")]
static AFFINITY: LruHashMap<AffinityKey, Affinity, { capacity::AFFINITY }> = LruHashMap::new();
#[btf_map(name = "sockets")]
static SOCKETS: LruHashMap<SocketKey, Socket, { capacity::SOCKETS }> = LruHashMap::new();
#[btf_map(name = "services")]
static SERVICES: Array<Service, { capacity::SERVICES }, MMAPABLE> = Array::new();
#[btf_map(name = "names")]
static NAMES: HashMap<u32, ServiceName, { capacity::SERVICES }, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "slots")]
static SLOTS: Array<Slot, { capacity::SLOTS }, MMAPABLE> = Array::new();
#[btf_map(name = "backends")]
static BACKENDS: Array<Backend, { capacity::BACKENDS }, MMAPABLE> = Array::new();
#[btf_map(name = "flows")]
static FLOWS: HashMap<FlowKey, Flow, { capacity::FLOWS }, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "flows_syn")]
static FLOWS_SYN: LruHashMap<FlowKey, Flow, { capacity::FLOWS_UNASSURED }> = LruHashMap::new();
#[btf_map(name = "flows_udp")]
static FLOWS_UDP: LruHashMap<FlowKey, Flow, { capacity::FLOWS_UNASSURED }> = LruHashMap::new();
/// The flow table before, while tables of another size take its place; else one entry each, and never looked at.
/// An entry that only it has is taken over by the first packet that asks.
#[btf_map(name = "old_flows")]
static OLD_FLOWS: HashMap<FlowKey, Flow, 1, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "old_flows_syn")]
static OLD_FLOWS_SYN: LruHashMap<FlowKey, Flow, 1> = LruHashMap::new();
#[btf_map(name = "old_flows_udp")]
static OLD_FLOWS_UDP: LruHashMap<FlowKey, Flow, 1> = LruHashMap::new();
#[btf_map(name = "counters")]
static COUNTS: PerCpuArray<u64, COUNTERS> = PerCpuArray::new();
#[btf_map(name = "service_stats")]
static SERVICE_STATS: PerCpuArray<Traffic, { capacity::SERVICES }> = PerCpuArray::new();
#[btf_map(name = "backend_stats")]
static BACKEND_STATS: PerCpuArray<Traffic, { capacity::BACKENDS }> = PerCpuArray::new();

/// Room for a flow in the making: the stack is 512 bytes for all frames together. Programs of
/// tc do not nest on a CPU (they run with softirqs off).
#[btf_map(name = "scratch")]
static SCRATCH: PerCpuArray<Pair, 1> = PerCpuArray::new();

/// A flow's two entries, and keys that are needed to store them.
#[repr(C)]
pub struct Pair {
    pub forward: Flow,
    pub reverse: Flow,
    /// Key of `reverse`.
    pub other: FlowKey,
    /// Key of an entry that is in the way and over.
    pub stale: FlowKey,
}

/// `SO_NETNS_COOKIE` of the network namespace whose processes are served.
#[unsafe(no_mangle)]
static HOST_NETNS: Global<u64> = Global::new(0);
/// 1: those of every network namespace.
#[unsafe(no_mangle)]
static EVERY_NETNS: Global<u8> = Global::new(0);
/// 1: the kernel has `bpf_set_retval` (5.18).
#[unsafe(no_mangle)]
static CAN_SET_RETVAL: Global<u8> = Global::new(0);

#[inline(always)]
pub fn host_netns() -> u64 {
    HOST_NETNS.load()
}

#[inline(always)]
pub fn every_netns() -> bool {
    EVERY_NETNS.load() != 0
}

#[inline(always)]
pub fn can_set_retval() -> bool {
    CAN_SET_RETVAL.load() != 0
}

/// 1: a segment of an unknown connection to a frontend goes on to the kernel, which may know it from
/// kube-proxy's time. 0: it gets a RST.
#[unsafe(no_mangle)]
static ADOPT: Global<u8> = Global::new(0);

/// 1: flows are looked for in the table before, too. A constant: the verifier removes what it turns off.
#[unsafe(no_mangle)]
static READ_THROUGH: Global<u8> = Global::new(0);

#[inline(always)]
fn reads_through() -> bool {
    READ_THROUGH.load() != 0
}

#[inline(always)]
pub fn adopt() -> bool {
    ADOPT.load() != 0
}

/// May this address and port matter to us? False positives are rare and only cost time.
#[inline(always)]
pub fn interesting(addr: Addr, port: Port, proto: u8) -> bool {
    let bit = interest_bit(addr, port, proto);
    match INTEREST.get(bit >> 6) {
        Some(word) => (*word >> (bit & 63)) & 1 != 0,
        None => false,
    }
}

/// Where [`interesting`] says no: is some range of Services near, or an address of the node, and a NodePort of this
/// number? For most packets one word tells.
#[inline(always)]
pub fn near_service(addr: Addr, port: Port) -> bool {
    let near = coarse(range_bit(addr));
    near & RANGE != 0 || near & NODE != 0 && may_be_node_port(port)
}

#[inline(always)]
pub fn may_be_node_port(port: Port) -> bool {
    coarse(port_bit(port)) & 1 != 0
}

/// A bit of `interest_coarse`, as the lowest, and those behind it.
#[inline(always)]
fn coarse(bit: u32) -> u64 {
    let bit = bit - COARSE_FIRST;
    match INTEREST_COARSE.get(bit >> 6) {
        Some(word) => *word >> (bit & 63),
        None => 0,
    }
}

/// What [`coarse`] gives of a block of addresses.
const RANGE: u64 = 1;
const NODE: u64 = 1 << (node_bit(Addr::UNSPECIFIED) - range_bit(Addr::UNSPECIFIED));

/// From now on it may. The sweep clears the bit when no flow needs it any more.
#[inline(always)]
pub fn set_interesting(addr: Addr, port: Port, proto: u8) {
    let bit = interest_bit(addr, port, proto);
    if let Some(word) = INTEREST.get_ptr_mut(bit >> 6) {
        let mask = 1u64 << (bit & 63);
        // SAFETY: a valid map value for the program's duration. `lock or`: the agent and other CPUs write the
        // same word; core's atomics have no read-modify-write on this target.
        unsafe {
            core::arch::asm!("lock *(u64 *)({word} + 0) |= {mask}", word = in(reg) word, mask = in(reg) mask);
        }
    }
}

#[inline(always)]
pub fn frontend(addr: Addr, port: Port, proto: u8) -> Option<Frontend> {
    // SAFETY: eight bytes, copied at once.
    unsafe { FRONTENDS.get(FrontendKey::new(addr, port, proto)) }.copied()
}

/// Do NodePorts answer on this address?
#[inline(always)]
pub fn is_local(addr: &Addr) -> bool {
    // SAFETY: the value is not read.
    unsafe { LOCAL_ADDRS.get(addr) }.is_some()
}

/// What holds for an address on ports that are no frontends.
#[inline(always)]
pub fn range_rule(addr: Addr) -> Option<RangeRule> {
    let key = Prefix::host(addr);
    // SAFETY: the trie's key is the same two fields, packed; ours is aligned, so that its stores are words.
    let key = unsafe { &*(&raw const key).cast::<Key<Addr>>() };
    SERVICE_RANGES.get(key).and_then(|rule| RangeRule::from_u32(*rule))
}

/// Is this client in the source ranges of the service?
#[inline(always)]
pub fn is_admitted(client: Addr, service: u32) -> bool {
    #[repr(C)]
    struct Lookup {
        len: u32,
        client: SourceClient,
    }
    let client = SourceClient { service: service.to_be_bytes(), addr: client };
    let key = Lookup { len: 8 * size_of::<SourceClient>() as u32, client };
    // SAFETY: as above.
    let key = unsafe { &*(&raw const key).cast::<Key<SourceClient>>() };
    SOURCE_RANGES.get(key).is_some()
}

/// What is remembered of a client. The entry may become another's while it is held: what is read of it has to be
/// checked, and what is written to it may get lost.
#[inline(always)]
pub fn affinity<'a>(key: &AffinityKey) -> Option<&'a mut Affinity> {
    // SAFETY: the kernel gave a pointer to a live value of this type.
    AFFINITY.get_ptr_mut(key).map(|entry| unsafe { &mut *entry })
}

/// Remembers a client's backend: over what was known of it where `known`, else only where nothing is (`-EEXIST`).
#[inline(always)]
pub fn affinity_insert(key: &AffinityKey, entry: &Affinity, known: bool) -> Result<(), i32> {
    AFFINITY.insert(key, entry, u64::from(if known { BPF_ANY } else { BPF_NOEXIST }))
}

/// What is known of a peer of a socket.
#[inline(always)]
pub fn socket(key: &SocketKey) -> Option<Socket> {
    // SAFETY: copied at once; the entry of a socket is written before anybody looks for it.
    unsafe { SOCKETS.get(key) }.copied()
}

#[inline(always)]
pub fn socket_insert(key: &SocketKey, socket: &Socket) {
    // Where there is no memory, the socket works without: its process sees the backend's name.
    let _ = SOCKETS.insert(key, socket, u64::from(BPF_ANY));
}

#[inline(always)]
pub fn socket_remove(key: &SocketKey) {
    // Mostly there is none.
    let _ = SOCKETS.remove(key);
}

/// The record of a service that is in force: `active` is read once.
#[inline(always)]
pub fn service_record(service: u32) -> Option<&'static ServiceRecord> {
    let service = SERVICES.get(service)?;
    // SAFETY: an aligned word of a live map value; volatile, so that it is read once and before the record.
    let active = unsafe { core::ptr::read_volatile(&raw const service.active) };
    // A branch rather than an index: the verifier need not bound it.
    Some(if active & 1 == 0 { &service.records[0] } else { &service.records[1] })
}

#[inline(always)]
pub fn slot(range: SlotRange, index: u32) -> Option<Slot> {
    SLOTS.get(range.offset + index).copied()
}

#[inline(always)]
pub fn backend(id: u32) -> Option<&'static Backend> {
    BACKENDS.get(id)
}

/// Is the backend still the one that was chosen?
#[inline(always)]
pub fn backend_alive(id: u32, generation: u32) -> bool {
    match BACKENDS.get(id) {
        // SAFETY: an aligned word of a live map value that the agent may write at any time.
        Some(backend) => unsafe { core::ptr::read_volatile(&raw const backend.generation) == generation },
        None => false,
    }
}

/// This CPU's room for a flow in the making; what stands in it is of another packet.
#[inline(always)]
pub fn scratch<'a>() -> Option<&'a mut Pair> {
    // SAFETY: this CPU's own value; taken once a packet.
    SCRATCH.get_ptr_mut(0).map(|pair| unsafe { &mut *pair })
}

/// The three parts of the flow table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Flows whose far end answered.
    Assured,
    /// The LRU of the protocol: half-open and closed TCP, or others without an answer.
    Unassured,
}

#[inline(always)]
fn lru_get(key: &FlowKey) -> Option<*mut Flow> {
    if key.proto == Proto::Tcp as u8 { FLOWS_SYN.get_ptr_mut(key) } else { FLOWS_UDP.get_ptr_mut(key) }
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

/// A flow, wherever it is.
#[inline(always)]
pub fn flow<'a>(key: &FlowKey) -> Option<(&'a mut Flow, Part)> {
    match flow_here(key) {
        None if reads_through() && take_over(key) != 0 => flow_here(key),
        found => found,
    }
}

/// From now on the entry is here, if the table before has it.
#[inline(always)]
pub fn bring_over(key: &FlowKey) {
    if reads_through() {
        take_over(key);
    }
}

/// Was an entry copied from the table before? It stays there too, for a link whose other direction has its former
/// program still.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_over(key: *const FlowKey) -> u32 {
    // SAFETY: null, or the caller's key.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    let (old, part) = match OLD_FLOWS.get_ptr(key) {
        Some(old) => (Some(old), Part::Assured),
        None if key.proto == Proto::Tcp as u8 => (OLD_FLOWS_SYN.get_ptr(key), Part::Unassured),
        None => (OLD_FLOWS_UDP.get_ptr(key), Part::Unassured),
    };
    let Some(old) = old else { return 0 };
    // SAFETY: the kernel gave a pointer to a live value of this type.
    match flow_insert_new(part, key, unsafe { &*old }) {
        Ok(()) => 1,
        Err(_) => 0,
    }
}

/// An entry that was removed must not come back from the table before.
#[inline(always)]
pub fn forget_before(key: &FlowKey) {
    if reads_through() {
        // Absent is fine.
        let _ = OLD_FLOWS.remove(key);
        let _ =
            if key.proto == Proto::Tcp as u8 { OLD_FLOWS_SYN.remove(key) } else { OLD_FLOWS_UDP.remove(key) };
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
        Part::Unassured if key.proto == Proto::Tcp as u8 => FLOWS_SYN.insert(key, flow, flags),
        Part::Unassured => FLOWS_UDP.insert(key, flow, flags),
    }
}

/// Deletes a flow from one part; `false` when it was not there.
#[inline(always)]
pub fn flow_remove(part: Part, key: &FlowKey) -> bool {
    match part {
        Part::Assured => FLOWS.remove(key),
        Part::Unassured if key.proto == Proto::Tcp as u8 => FLOWS_SYN.remove(key),
        Part::Unassured => FLOWS_UDP.remove(key),
    }
    .is_ok()
}

#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTS.get_ptr_mut(counter as u32) {
        // SAFETY: this CPU's own word.
        unsafe { *value += 1 };
    }
}

/// Counts traffic of a service and its backend on this CPU.
#[inline(always)]
pub fn account(service: u32, backend: u32, add: impl Fn(&mut Traffic)) {
    if let Some(stats) = SERVICE_STATS.get_ptr_mut(service) {
        // SAFETY: this CPU's own value.
        add(unsafe { &mut *stats });
    }
    if let Some(stats) = BACKEND_STATS.get_ptr_mut(backend) {
        // SAFETY: this CPU's own value.
        add(unsafe { &mut *stats });
    }
}
