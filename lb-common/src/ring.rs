//! Rings: how many flows there can be that no far end has confirmed, or that have ended.

use crate::{Flow, FlowKey, Phase, wire_enum};

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
