//! Tries what the kernel can do, and leaves nothing behind.

use std::io;

use anyhow::anyhow;
use aya::Btf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramType, SchedClassifier};
use aya::sys::is_program_supported;
use lb_common::names;

use super::hook::place::attach_type;
use super::pins::Pins;
use super::sys::create;
use super::sys::link;
use crate::node::netdev::Direction;

/// Checks that the kernel describes its own types (BTF).
///
/// # Errors
/// If it does not; the error says why.
pub fn btf() -> anyhow::Result<()> {
    Ok(Btf::from_sys_fs().map(drop)?)
}

/// Whether the kernel has programs at connect, sendmsg and similar calls.
///
/// # Errors
/// If the privilege to try it is missing.
pub fn has_socket_programs() -> anyhow::Result<bool> {
    Ok(is_program_supported(ProgramType::CgroupSockAddr)?)
}

/// Whether the kernel charges maps to RLIMIT_MEMLOCK (before 5.11) instead of the memory cgroup.
///
/// # Errors
/// If the privilege to try it is missing.
pub fn counts_locked_memory() -> io::Result<bool> {
    create::counts_locked_memory()
}

/// The TCX programs at a link that are not ours: their names, or their ids if the names must not be read. `None` if the
/// kernel has no TCX.
///
/// # Errors
/// If CAP_NET_ADMIN is missing.
pub fn others_on_tcx(
    pins: &Pins,
    link: &str,
    index: u32,
    direction: Direction,
) -> anyhow::Result<Option<Vec<String>>> {
    let ids = match link::tcx_programs(index, direction == Direction::Ingress) {
        Ok(ids) => ids,
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    if ids.is_empty() {
        return Ok(Some(Vec::new()));
    }
    // Reading a program by its id needs CAP_SYS_ADMIN.
    if let Ok((_, programs)) = SchedClassifier::query_tcx(link, attach_type(direction)) {
        let names = programs.iter().map(|program| program.name_as_str().unwrap_or("?").to_owned());
        return Ok(Some(names.filter(|name| !names::ON_LINKS.contains(&name.as_str())).collect()));
    }
    let ours = pinned_program(pins, index, direction).ok();
    let others = ids.into_iter().filter(|id| Some(*id) != ours);
    Ok(Some(others.map(|id| format!("program {id}")).collect()))
}

fn pinned_program(pins: &Pins, index: u32, direction: Direction) -> anyhow::Result<u32> {
    let link = PinnedLink::from_pin(pins.link(index, direction.name()))?;
    Ok(FdLink::from(link).info().map_err(|error| anyhow!("{error}"))?.program_id())
}
