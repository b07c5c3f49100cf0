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
    /// Counts the uses of this id. A slot or a flow that remembers another generation means a backend that is
    /// gone. Stored with one aligned 32-bit write when the backend is retired.
    pub generation: u32,
    /// Index into `services`: the owner.
    pub service: u32,
    /// Relative share of new flows, for weighted algorithms.
    pub weight: u16,
    /// The sets of the record in force that it is in, `Backend::IN_CLUSTER` and its sibling: a client that came before may
    /// be sent to it again. Written before the service flips to a set that it joins, and after the flip from one that it
    /// leaves.
    pub sets: u8,
    pub pad: u8,
}

const _: () = assert!(size_of::<Backend>() == 32);

impl Backend {
    pub const IN_CLUSTER: u8 = 1;
    pub const IN_LOCAL: u8 = 2;

    /// Whether the id is free for another endpoint.
    #[inline(always)]
    pub const fn is_free(&self) -> bool {
        self.state == BackendState::Free.number()
    }
}

wire_enum! {
    pub enum BackendState: u8 {
        /// The id is not in use (address and owner are what they last were).
        Free = 0,
        /// Takes new flows.
        Active = 1,
        /// Keeps its flows; takes new ones only if a set still lists it (the fall-back of KEP-1669).
        Terminating = 2,
    }
}
