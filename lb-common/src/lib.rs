//! What the packet path (`lb-ebpf`) and the agent (`lb-userspace`) must agree on.
//!
//! Three laws hold for every type here:
//!
//! 1. **Byte order is in the type.** Addresses and ports are big-endian bytes ([`Addr`], [`Port`]); every
//!    other integer is in host order.
//! 2. **Layout is stated.** `repr(C)`, no hidden padding (it is named `pad` and zero), no `bool`, no `Option`,
//!    no enum: any bit pattern is a valid value. Sizes are asserted beside each type.
//! 3. **No policy.** What a Service means is decided before it gets here.
//!
//! A change of any layout is a new [`SCHEMA`]: maps of another schema live in another pin folder.

#![cfg_attr(not(feature = "user"), no_std)]

mod addr;
mod backend;
mod counters;
mod flow;
mod interest;
pub mod names;
mod service;

pub use addr::{Addr, Port, Proto};
pub use backend::{Backend, BackendState};
pub use counters::{COUNTERS, Counter, Traffic};
pub use flow::{Action, Endpoint, Flow, FlowKey, Phase, timeout};
pub use interest::{INTEREST_BITS, INTEREST_WORDS, interest_bit};
pub use service::{
    Active, Algorithm, Frontend, FrontendKey, FrontendKind, Service, ServiceName, ServiceRecord, Slot,
    SlotRange,
};

/// Version of the tables' layout; the name of the pin folder (`v1`).
pub const SCHEMA: u32 = 1;

/// Gives aya leave to copy these types to and from the kernel.
#[cfg(feature = "user")]
macro_rules! pod {
    ($($type:ty),* $(,)?) => {$(
        // SAFETY: `repr(C)` of integers and byte arrays, no hidden padding (sizes are asserted), any bit
        // pattern is valid.
        unsafe impl aya::Pod for $type {}
    )*};
}

#[cfg(feature = "user")]
pod!(Addr, Backend, Flow, FlowKey, Frontend, FrontendKey, Service, ServiceName, Slot, Traffic);
