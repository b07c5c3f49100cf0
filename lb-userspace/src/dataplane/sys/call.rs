//! The system call `bpf(2)` and its commands.

use std::io;

pub(super) const MAP_CREATE: u32 = 0;
pub(super) const MAP_LOOKUP_ELEM: u32 = 1;
pub(super) const MAP_UPDATE_ELEM: u32 = 2;
pub(super) const OBJ_PIN: u32 = 6;
pub(super) const OBJ_GET: u32 = 7;
pub(super) const OBJ_GET_INFO_BY_FD: u32 = 15;
pub(super) const PROG_QUERY: u32 = 16;
pub(super) const MAP_LOOKUP_BATCH: u32 = 24;
pub(super) const LINK_UPDATE: u32 = 29;
pub(super) const LINK_DETACH: u32 = 34;

/// Runs one command of `bpf(2)`. `attr` is the part of `union bpf_attr` that the command reads; the kernel takes the
/// rest as zero.
pub(super) fn bpf<T>(command: u32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is valid for reads and writes of its size; each caller passes the struct of its command.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// The attributes of commands about one entry of a map.
#[repr(C)]
pub(super) struct ElementAttr {
    pub(super) map_fd: u64,
    pub(super) key: u64,
    pub(super) value: u64,
    pub(super) flags: u64,
}
