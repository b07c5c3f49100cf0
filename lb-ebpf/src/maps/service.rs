//! Frontends, the node's addresses, ranges, services, slots and backends: what the agent writes.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LpmTrie},
    macros::btf_map,
    maps::lpm_trie::Key,
};
use lb_common::{
    Addr, Backend, Frontend, FrontendKey, Port, Prefix, RangeRule, Service, ServiceName, ServiceRecord, Slot,
    SlotRange, SourceClient, capacity,
};

use super::flags::{MMAPABLE, NO_PREALLOC};

#[btf_map(name = "frontends")]
static FRONTENDS: HashMap<FrontendKey, Frontend, { capacity::FRONTENDS }, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "local_addrs")]
static LOCAL_ADDRS: HashMap<Addr, u32, { capacity::LOCAL_ADDRS }, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "service_ranges")]
static SERVICE_RANGES: LpmTrie<Addr, u32, { capacity::SERVICE_RANGES }> = LpmTrie::new();
#[btf_map(name = "source_ranges")]
static SOURCE_RANGES: LpmTrie<SourceClient, u32, { capacity::SOURCE_RANGES }> = LpmTrie::new();
#[btf_map(name = "services")]
static SERVICES: Array<Service, { capacity::SERVICES }, MMAPABLE> = Array::new();
#[btf_map(name = "names")]
static NAMES: HashMap<u32, ServiceName, { capacity::SERVICES }, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "slots")]
static SLOTS: Array<Slot, { capacity::SLOTS }, MMAPABLE> = Array::new();
#[btf_map(name = "backends")]
static BACKENDS: Array<Backend, { capacity::BACKENDS }, MMAPABLE> = Array::new();

#[inline(always)]
pub fn frontend(addr: Addr, port: Port, proto: u8) -> Option<Frontend> {
    // SAFETY: eight bytes, copied at once.
    unsafe { FRONTENDS.get(FrontendKey::new(addr, port, proto)) }.copied()
}

/// Whether NodePorts answer on this address.
#[inline(always)]
pub fn is_local(addr: &Addr) -> bool {
    // SAFETY: the value is not read.
    unsafe { LOCAL_ADDRS.get(addr) }.is_some()
}

/// The rule for an address on ports that are not frontends.
#[inline(always)]
pub fn range_rule(addr: Addr) -> Option<RangeRule> {
    let key = Prefix::host(addr);
    // SAFETY: the trie's key is the same two fields, packed; ours is aligned, so that its stores are words.
    let key = unsafe { &*(&raw const key).cast::<Key<Addr>>() };
    SERVICE_RANGES.get(key).and_then(|rule| RangeRule::from_number(*rule))
}

/// Whether this client is in the source ranges of the service.
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

/// The record of a service that is in force; `active` is read once.
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

/// Whether the backend is still the one that was chosen.
#[inline(always)]
pub fn backend_alive(id: u32, generation: u32) -> bool {
    match BACKENDS.get(id) {
        // SAFETY: an aligned word of a live map value that the agent may write at any time.
        Some(backend) => unsafe { core::ptr::read_volatile(&raw const backend.generation) == generation },
        None => false,
    }
}
