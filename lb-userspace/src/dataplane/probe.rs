//! What the kernel can do, tried; nothing is left behind.

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

/// Does the kernel describe its own types?
///
/// # Errors
/// Why not.
pub fn btf() -> anyhow::Result<()> {
    Ok(Btf::from_sys_fs().map(drop)?)
}

/// Does the kernel have programs at connect, sendmsg and the like?
///
/// # Errors
/// Where that cannot be tried: no privilege.
pub fn has_socket_programs() -> anyhow::Result<bool> {
    Ok(is_program_supported(ProgramType::CgroupSockAddr)?)
}

/// Does the kernel count maps against RLIMIT_MEMLOCK (before 5.11), instead of the memory cgroup?
///
/// # Errors
/// Where that cannot be tried: no privilege.
pub fn counts_locked_memory() -> io::Result<bool> {
    create::counts_locked_memory()
}

/// TCX programs at a link that are not ours: names, or ids where those must not be read.
///
/// # Errors
/// The kernel's: without CAP_NET_ADMIN. `None` where it has no TCX.
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
    // By id each program takes CAP_SYS_ADMIN to read.
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
