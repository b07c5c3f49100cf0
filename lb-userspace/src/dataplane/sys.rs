//! `bpf(2)` where aya has no wrapper.

mod call;
pub mod create;
pub mod entries;
pub mod grace;
pub mod link;
pub mod mapped;
pub mod pin;
