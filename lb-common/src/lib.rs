//! What the packet path (`lb-ebpf`) and the agent (`lb-userspace`) must agree on: the layout of every table.
//!
//! Three laws hold for every type in a table:
//!
//! 1. **Byte order is in the type.** Addresses and ports are big-endian bytes ([`Addr`], [`Port`]); every
//!    other integer is in host order.
//! 2. **Layout is stated.** `repr(C)`, no hidden padding (padding is named `pad` and zero), no `bool`, no `Option`,
//!    no enum: any bit pattern is a valid value. The size is asserted after each type.
//! 3. **No policy.** The agent decides what a Service means before it writes a table.
//!
//! A change of any layout is a new [`SCHEMA`]: maps of another schema live in another pin folder.

#![cfg_attr(not(feature = "user"), no_std)]

mod wire;

mod addr;
mod affinity;
mod backend;
mod bridge;
pub mod checksum;
mod counters;
mod flow;
mod interest;
pub mod names;
mod prefix;
mod ring;
mod service;
mod socket;

pub use addr::{Addr, Port, Proto};
pub use affinity::{Affinity, AffinityKey};
pub use backend::{Backend, BackendState};
pub use bridge::BridgeHost;
pub use counters::{COUNTERS, Counter, Traffic};
pub use flow::{Action, Endpoint, Finding, Flow, FlowKey, Phase, ReadThrough, TICK_SHIFT, timeout};
pub use interest::{
    COARSE_FIRST, COARSE_WORDS, INTEREST_BITS, INTEREST_WORDS, interest_bit, node_bit, port_bit, range_bit,
};
pub use prefix::{Prefix, RangeRule, SourceClient};
pub use ring::{
    CLIENT_GROUPS, CROWDED, LIVE_COUNTS, RING_PART, RING_SHARDS, Ring, RingSlot, SHARE, client_group,
};
pub use service::{
    Active, Algorithm, Frontend, FrontendKey, FrontendKind, Service, ServiceName, ServiceRecord, Slot,
    SlotRange,
};
pub use socket::{PeerSide, Socket, SocketKey};

/// Version of the tables' layout; the name of the pin folder (`v3`).
pub const SCHEMA: u32 = 3;

/// Allows aya to copy these types to and from the kernel.
#[cfg(feature = "user")]
macro_rules! pod {
    ($($type:ty),* $(,)?) => {$(
        // SAFETY: `repr(C)` of integers and byte arrays, no hidden padding (sizes are asserted), any bit
        // pattern is valid.
        unsafe impl aya::Pod for $type {}
    )*};
}

#[cfg(feature = "user")]
pod!(
    Addr,
    Affinity,
    AffinityKey,
    Backend,
    BridgeHost,
    Flow,
    FlowKey,
    Frontend,
    FrontendKey,
    Prefix,
    RingSlot,
    Service,
    ServiceName,
    Slot,
    Socket,
    SocketKey,
    SourceClient,
    Traffic
);

/// The number of keys that one run of the sweep takes.
pub const SWEEP_BATCH: usize = 64;

/// Entries of the tables that have a fixed size.
pub mod capacity {
    pub const FRONTENDS: usize = 65_536;
    /// The node's own addresses.
    pub const LOCAL_ADDRS: usize = 16_384;
    /// Every ClusterIP (as many as frontends), those of other proxies, and the ranges that contain them.
    pub const SERVICE_RANGES: usize = 131_072;
    pub const SOURCE_RANGES: usize = 65_536;
    /// Clients of services with session affinity. The memory is allocated at start.
    pub const AFFINITY: usize = 65_536;
    /// Names of peers of the host's sockets. The memory is allocated at start.
    pub const SOCKETS: usize = 65_536;
    /// Service ports.
    pub const SERVICES: usize = 32_768;
    pub const SLOTS: usize = 262_144;
    pub const BACKENDS: usize = 131_072;
    /// Ports of bridges, and VLANs on bridges.
    pub const BRIDGE_PORTS: usize = 4_096;
    /// Hosts on bridges. The memory is allocated at start.
    pub const BRIDGE_HOSTS: usize = 16_384;
    /// Two entries per flow. The memory is allocated on use.
    pub const FLOWS: usize = 1_048_576;
    /// One slot per flow, in all rings together. The memory is allocated at start.
    pub const RINGS: usize = crate::Ring::COUNT * FLOWS / 2 / crate::RING_PART;
}
