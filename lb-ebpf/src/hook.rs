//! One pipeline for each hook: read, find, decide, act. Nothing below knows which hook runs it.

pub mod pod;
pub mod sock;
