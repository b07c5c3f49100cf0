//! Rings: how many flows there can be that no far end has confirmed, or that have ended.

use crate::{Addr, Flow, FlowKey, Phase, wire_enum};

wire_enum! {
    /// A ring holds the keys of flows of one kind. Whoever takes a slot removes the flow that had it, if that flow is
    /// still of the kind.
    pub enum Ring: u32 {
        /// TCP whose handshake is not complete.
        HalfOpen = 0,
        /// UDP and SCTP without an answer.
        Unanswered = 1,
        /// TCP that has ended.
        Ended = 2,
    }
}

impl Ring {
    pub const COUNT: usize = 3;

    /// The ring of a flow that begins.
    #[inline(always)]
    pub const fn of_new(key: &FlowKey) -> Self {
        if key.is_tcp() { Self::HalfOpen } else { Self::Unanswered }
    }

    /// Whether a flow is still what this ring is for.
    #[inline(always)]
    pub const fn is_for(self, flow: &Flow) -> bool {
        match self {
            Self::HalfOpen | Self::Unanswered => !flow.has_reached(Phase::Assured),
            Self::Ended => flow.is_in(Phase::Closed),
        }
    }
}

/// An entry of `rings`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct RingSlot {
    /// The key of the flow's forward entry.
    pub key: FlowKey,
    /// [`Flow::first_seen`], which tells the flow from a later one of the same key. 0 if the slot was never used.
    pub first_seen: u32,
    pub pad: u32,
}

const _: () = assert!(size_of::<RingSlot>() == 48);

/// Each ring is cut into this many shards, so that CPUs do not share cache lines on ordinary machines. More shards
/// would make each of them short, and the flood of one CPU would then evict handshakes that take milliseconds.
pub const RING_SHARDS: usize = 8;

/// A ring has room for this part of all flows.
pub const RING_PART: usize = 16;

/// Groups of client addresses that share a count of live flows; a power of two.
pub const CLIENT_GROUPS: usize = 4_096;

/// The length of `flows_live`: the number of all live flows, then that of each group of clients.
pub const LIVE_COUNTS: usize = 1 + CLIENT_GROUPS;

/// When more than this part of the room for live flows is taken (in eighths), ...
pub const CROWDED: u32 = 6;
/// ... a group of clients gets no more if it has this part (in eighths).
pub const SHARE: u32 = 1;

/// The index into `flows_live` of a client's group.
#[inline(always)]
pub const fn client_group(client: Addr) -> u32 {
    let w = client.words();
    let high = (w[0] as u64) << 32 | w[1] as u64;
    let low = (w[2] as u64) << 32 | w[3] as u64;
    let hash = (high.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ low).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    1 + (hash >> 52) as u32 % CLIENT_GROUPS as u32
}
