//! From a destination to its frontend.

use lb_common::{Addr, FlowKey, Frontend};

use crate::maps;

const NONE: u64 = u64::MAX;

/// The frontend that a packet is for: at its destination, or the NodePort of that number on an address of the node.
#[inline(always)]
pub fn of(key: &FlowKey) -> Option<Frontend> {
    match find_frontend(key) {
        NONE => None,
        found => Some(Frontend { service: found as u32, kind: (found >> 32) as u8, flags: 0, pad: [0; 2] }),
    }
}

/// Service id in the low half, kind above it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_frontend(key: *const FlowKey) -> u64 {
    // SAFETY: null, or the caller's key.
    let Some(key) = (unsafe { key.as_ref() }) else { return NONE };
    if let Some(frontend) = maps::frontend(key.dst, key.dport, key.proto) {
        return found(frontend);
    }
    if !maps::may_be_node_port(key.dport) || !maps::is_local(&key.dst) {
        return NONE;
    }
    let unspecified = if key.dst.is_v4() { Addr::from_v4_word(0) } else { Addr::UNSPECIFIED };
    maps::frontend(unspecified, key.dport, key.proto).map_or(NONE, found)
}

#[inline(always)]
fn found(frontend: Frontend) -> u64 {
    u64::from(frontend.service) | u64::from(frontend.kind) << 32
}
