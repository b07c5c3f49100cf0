//! Bridges: what the agent knows of their ports, and where the packet path has seen their hosts.

use aya_ebpf::{
    bindings::BPF_ANY,
    btf_maps::{HashMap, LruHashMap},
    macros::btf_map,
};
use lb_common::{Addr, BridgeHost, capacity};

use super::flags::NO_PREALLOC;

#[btf_map(name = "bridge_ports")]
static BRIDGE_PORTS: HashMap<u32, u32, { capacity::BRIDGE_PORTS }, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "bridge_hosts")]
static BRIDGE_HOSTS: LruHashMap<Addr, BridgeHost, { capacity::BRIDGE_HOSTS }> = LruHashMap::new();

/// The bridge of which a link is a port, or on which a VLAN is; interface indexes.
#[inline(always)]
pub fn bridge_of(link: u32) -> Option<u32> {
    // SAFETY: a word, copied at once.
    unsafe { BRIDGE_PORTS.get(link) }.copied()
}

/// Where an address was seen.
#[inline(always)]
pub fn bridge_host(addr: &Addr) -> Option<BridgeHost> {
    // SAFETY: copied at once. What another CPU writes meanwhile makes one packet look forged at worst.
    unsafe { BRIDGE_HOSTS.get(addr) }.copied()
}

#[inline(always)]
pub fn bridge_host_insert(addr: &Addr, host: &BridgeHost) {
    // Without memory for the entry, the next packet asks again.
    let _ = BRIDGE_HOSTS.insert(addr, host, u64::from(BPF_ANY));
}
