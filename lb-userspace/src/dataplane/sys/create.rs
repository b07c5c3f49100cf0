//! Maps of one entry, created to learn something about the kernel.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::call::{self, bpf};

pub(super) const ARRAY: u32 = 2;
pub(super) const ARRAY_OF_MAPS: u32 = 12;

#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

/// Creates a map with a single entry of four bytes. A map of maps takes `inner` as their template.
pub(super) fn create(map_type: u32, inner: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let mut attr = CreateAttr {
        map_type,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        inner_map_fd: inner.map_or(0, |fd| fd.as_raw_fd() as u32),
        ..CreateAttr::default()
    };
    attr.map_name[..5].copy_from_slice(b"grace");
    let fd = bpf(call::MAP_CREATE, &mut attr)?;
    // SAFETY: the kernel gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether a map is charged to RLIMIT_MEMLOCK. Tried with a limit of zero, which this process sets for a moment for
/// itself alone.
///
/// # Errors
/// The error of the kernel; `PermissionDenied` without CAP_BPF.
pub fn counts_locked_memory() -> io::Result<bool> {
    create(ARRAY, None)?;
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is valid.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let none = libc::rlimit { rlim_cur: 0, ..before };
    // SAFETY: the pointers are valid; only the soft limit is changed, and changed back.
    let counted = unsafe {
        libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const none);
        let made = create(ARRAY, None);
        libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const before);
        made.is_err()
    };
    Ok(counted)
}
