//! Proves that a grace period has passed.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::call::{self, ElementAttr, bpf};
use super::create::{ARRAY, ARRAY_OF_MAPS, create};

/// Proves that every program that was running has ended: after an update of a map of maps the kernel waits for them
/// (`maybe_wait_bpf_programs`), so that the inner map of the old value can be freed. This takes some 10 ms.
pub struct Grace {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Grace {
    /// # Errors
    /// If the kernel has no maps of maps, or the right to create one is missing.
    pub fn new() -> io::Result<Self> {
        let inner = create(ARRAY, None)?;
        let outer = create(ARRAY_OF_MAPS, Some(&inner))?;
        Ok(Self { outer, inner })
    }

    /// Returns when every program that was running at the call has ended.
    ///
    /// # Errors
    /// The error of the kernel; nothing is proven then.
    pub fn wait(&self) -> io::Result<()> {
        let (key, value) = (0_u32, self.inner.as_raw_fd() as u32);
        let mut attr = ElementAttr {
            map_fd: self.outer.as_raw_fd() as u64,
            key: std::ptr::from_ref(&key) as u64,
            value: std::ptr::from_ref(&value) as u64,
            flags: 0,
        };
        bpf(call::MAP_UPDATE_ELEM, &mut attr).map(drop)
    }
}
