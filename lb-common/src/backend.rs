//! Backends: one id is one endpoint of one service port.

use crate::{Addr, Port, wire_enum};

/// The value of `backends`. An id is never shared between services: weight, draining and removal belong to the
/// pair of service port and endpoint, not to the address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Backend {
    pub addr: Addr,
    pub port: Port,
    /// IANA protocol number.
    pub proto: u8,
    /// A [`BackendState`].
    pub state: u8,
    /// Counts the uses of this id. A slot or a flow with another generation refers to a backend that is gone. Stored
    /// with one aligned 32-bit write when the backend is retired.
    pub generation: u32,
    /// Index into `services`: the owner.
    pub service: u32,
    /// Relative share of new flows, for weighted algorithms.
    pub weight: u16,
    /// The sets of the record in force of which the backend is a member, `Backend::IN_CLUSTER` and its sibling: a
    /// returning client may be sent to the backend again. Written before the service flips to a set that the backend
    /// joins, and after the flip from a set that the backend leaves.
    pub sets: u8,
    pub pad: u8,
}

const _: () = assert!(size_of::<Backend>() == 32);

impl Backend {
    /// A member of the Cluster set.
    pub const IN_CLUSTER: u8 = 1;
    /// A member of the Local set.
    pub const IN_LOCAL: u8 = 2;

    /// Whether the id is free for another endpoint.
    #[inline(always)]
    pub const fn is_free(&self) -> bool {
        self.state == BackendState::Free.number()
    }
}

wire_enum! {
    /// What a backend is used for.
    pub enum BackendState: u8 {
        /// The id is not in use (address and owner are what they last were).
        Free = 0,
        /// Takes new flows.
        Active = 1,
        /// Keeps its flows; takes new ones only if a set still lists it (the fall-back of KEP-1669).
        Terminating = 2,
    }
}
