//! From a destination to its frontend.

use lb_common::{Addr, FlowKey, Frontend};

use crate::global::{Answer, Argument, global};
use crate::maps;

/// Service id in the low half, kind above it.
impl Answer for Option<Frontend> {
    type Raw = u64;

    #[inline(always)]
    fn encode(self) -> u64 {
        match self {
            Some(frontend) => u64::from(frontend.service) | u64::from(frontend.kind) << 32,
            None => u64::MAX,
        }
    }

    #[inline(always)]
    fn decode(raw: u64) -> Self {
        match raw {
            u64::MAX => None,
            found => {
                Some(Frontend { service: found as u32, kind: (found >> 32) as u8, flags: 0, pad: [0; 2] })
            }
        }
    }
}

impl Argument for Option<Frontend> {
    type Raw = u64;
    type Room = ();

    #[inline(always)]
    fn pass(self) -> u64 {
        self.encode()
    }

    #[inline(always)]
    unsafe fn receive(raw: u64, _: *mut ()) -> Option<Self> {
        Some(Self::decode(raw))
    }
}

global!(
    /// The frontend that a packet is for: at its destination, or the NodePort of that number on an address of the node.
    pub fn find_frontend(key: &FlowKey) -> Option<Frontend> = find, null: None
);

#[inline(always)]
fn find(key: &FlowKey) -> Option<Frontend> {
    let found = maps::frontend(key.dst, key.dport, key.proto);
    if found.is_some() || !maps::may_be_node_port(key.dport) || !maps::is_local(&key.dst) {
        return found;
    }
    let unspecified = if key.dst.is_v4() { Addr::from_v4_word(0) } else { Addr::UNSPECIFIED };
    maps::frontend(unspecified, key.dport, key.proto)
}
