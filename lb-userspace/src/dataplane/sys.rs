//! Commands of `bpf(2)` for which aya has no wrapper.

mod call;
pub mod create;
pub mod entries;
pub mod grace;
pub mod link;
pub mod mapped;
pub mod pin;
