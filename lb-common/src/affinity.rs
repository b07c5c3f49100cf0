//! Session affinity: which backend a client had last.

use crate::Addr;

/// The key of `affinity`: all addresses of a service port share it, as with kube-proxy.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct AffinityKey {
    pub client: Addr,
    /// Index into `services`.
    pub service: u32,
}

const _: () = assert!(size_of::<AffinityKey>() == 20);

/// The value of `affinity`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Affinity {
    /// Index into `backends`.
    pub backend: u32,
    /// The backend's generation when it was chosen.
    pub generation: u32,
    /// Nanoseconds of `CLOCK_MONOTONIC_COARSE` at the last new flow.
    pub last_new: u64,
}

const _: () = assert!(size_of::<Affinity>() == 16);
