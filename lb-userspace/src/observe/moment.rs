//! A point in time, by both clocks.

use std::time::Instant;

use k8s_openapi::jiff::Timestamp;

/// The wall clock is for people and other machines, the monotonic clock for durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub mono: Instant,
    pub wall: Timestamp,
}

impl Moment {
    pub fn now() -> Self {
        Self { mono: Instant::now(), wall: Timestamp::now() }
    }
}
