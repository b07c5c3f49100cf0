//! Links: what a pinned link is attached to, and what is attached to an interface.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use super::call::{self, bpf};
use super::pin::get_pinned;

/// Detaches a pinned link: when this returns, its program is no longer attached. (Removing the pin detaches it too, but
/// some milliseconds later.)
///
/// # Errors
/// The error of the kernel; `NotFound` if nothing is pinned.
pub fn detach_pinned(pin: &Path) -> io::Result<()> {
    let link = get_pinned(pin)?;
    bpf(call::LINK_DETACH, &mut (link.as_raw_fd() as u32)).map(drop)
}

#[repr(C)]
struct LinkUpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Replaces the program of a pinned link atomically. (aya can do this for tc and XDP only.)
///
/// # Errors
/// The error of the kernel; `NotFound` if nothing is pinned, ENOLINK if the target of the link is gone.
pub fn update_pinned(pin: &Path, program: BorrowedFd) -> io::Result<()> {
    let link = get_pinned(pin)?;
    let mut attr = LinkUpdateAttr {
        link: link.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        flags: 0,
        old_program: 0,
    };
    bpf(call::LINK_UPDATE, &mut attr).map(drop)
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_link_info` of links with a single target.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    link_type: u32,
    id: u32,
    program: u32,
    pad: u32,
    /// TCX: `ifindex`. Cgroup: the low half of `cgroup_id`.
    target: u32,
    /// The kernel's struct is longer.
    rest: [u32; 17],
}

/// What a pinned link is attached to: an interface by its index (TCX), or a cgroup by the low half of its number. 0 if
/// the link is no longer attached: its target is gone, or another process detached it.
///
/// # Errors
/// The error of the kernel; `NotFound` if nothing is pinned.
pub fn pinned_target(pin: &Path) -> io::Result<u32> {
    let link = get_pinned(pin)?;
    let mut info = LinkInfo::default();
    let mut attr = InfoAttr {
        fd: link.as_raw_fd() as u32,
        info_len: size_of::<LinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(call::OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info.target)
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Ids of the TCX programs at a link of this network namespace, in the order in which they run.
///
/// # Errors
/// The error of the kernel; EINVAL if it has no TCX.
pub fn tcx_programs(ifindex: u32, ingress: bool) -> io::Result<Vec<u32>> {
    const BPF_TCX_INGRESS: u32 = 46;
    const BPF_TCX_EGRESS: u32 = 47;
    // The kernel takes at most 64 at a hook (`BPF_MPROG_MAX`).
    let mut ids = vec![0_u32; 64];
    let mut attr = QueryAttr {
        target_ifindex: ifindex,
        attach_type: if ingress { BPF_TCX_INGRESS } else { BPF_TCX_EGRESS },
        prog_ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        ..QueryAttr::default()
    };
    match bpf(call::PROG_QUERY, &mut attr) {
        Ok(_) => ids.truncate(attr.count as usize),
        // Nothing was ever attached.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => ids.clear(),
        Err(error) => return Err(error),
    }
    Ok(ids)
}
