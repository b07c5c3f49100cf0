//! Proof that a grace period has passed.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::call::{self, ElementAttr, bpf};
use super::create::{ARRAY, ARRAY_OF_MAPS, create};

/// Proof that every program which ran before has ended: the kernel waits for that after an update of a map of
/// maps (`maybe_wait_bpf_programs`), so the inner maps of the old value can go. Some 10 ms.
pub struct Grace {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Grace {
    /// # Errors
    /// Where the kernel has no maps of maps, or no right to make one.
    pub fn new() -> io::Result<Self> {
        let inner = create(ARRAY, None)?;
        let outer = create(ARRAY_OF_MAPS, Some(&inner))?;
        Ok(Self { outer, inner })
    }

    /// # Errors
    /// The kernel's; then nothing is proven.
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
