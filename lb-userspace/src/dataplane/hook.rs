//! Programs on links: TCX where the kernel has it and nobody sits on clsact, else clsact.
//!
//! Order beside others is symmetric: first on ingress, last on egress, so that a policy program between sees
//! both directions translated. TCX runs before clsact always, hence clsact beside a clsact program of somebody
//! else.

pub mod cgroup;

use std::io;

use anyhow::{Context, anyhow, bail};
use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;
use lb_common::names;

use super::load;
use super::pins::Pins;
use super::sys::link;
use crate::node::netdev::{Direction, Facts, Filter};

/// `--attach`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Mode {
    /// TCX, tried; clsact where the kernel has none or another clsact program sits on the link.
    #[default]
    Auto,
    Tcx,
    Clsact,
}

/// How a program hangs on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    Tcx,
    Clsact,
}

/// Lower numbers run first.
const FIRST: u16 = 1;
const LAST: u16 = u16::MAX;

fn program_name(link: &Facts, direction: Direction) -> &'static str {
    match (link.bridge_port, direction) {
        (false, Direction::Ingress) if link.peer_elsewhere => names::POD_INGRESS,
        (false, Direction::Ingress) => names::TAP_INGRESS,
        (false, Direction::Egress) => names::POD_EGRESS,
        (true, Direction::Ingress) if link.peer_elsewhere => names::PORT_INGRESS,
        (true, Direction::Ingress) => names::TAP_PORT_INGRESS,
        (true, Direction::Egress) => names::PORT_EGRESS,
    }
}

pub(super) fn attach_type(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    }
}

pub fn is_ours(filter: &Filter) -> bool {
    filter.name.as_deref().is_some_and(|name| names::ON_LINKS.contains(&name))
}

/// Puts the programs on a pod's link, or swaps them under what is there: atomically, if the hook stays the
/// same. `filters` are those of ingress and egress.
///
/// # Errors
/// Where neither hook takes the program, or the one that was asked for does not.
pub fn attach(
    object: &mut Ebpf,
    pins: &Pins,
    mode: Mode,
    link: &Facts,
    filters: &[Vec<Filter>; 2],
) -> anyhow::Result<Hook> {
    let foreign = filters.iter().flatten().any(|filter| !is_ours(filter));
    let tcx = match mode {
        Mode::Tcx => true,
        Mode::Clsact => false,
        Mode::Auto => !foreign,
    };
    if tcx {
        match attach_both(object, pins, Hook::Tcx, link, filters) {
            Ok(()) => return Ok(Hook::Tcx),
            Err(error) if mode == Mode::Auto && lacks_tcx(&error) => {}
            Err(error) => return Err(error.context(format!("attach to {} by TCX", link.name))),
        }
    }
    attach_both(object, pins, Hook::Clsact, link, filters)
        .with_context(|| format!("attach to {} by clsact", link.name))?;
    Ok(Hook::Clsact)
}

fn attach_both(
    object: &mut Ebpf,
    pins: &Pins,
    hook: Hook,
    link: &Facts,
    filters: &[Vec<Filter>; 2],
) -> anyhow::Result<()> {
    if hook == Hook::Clsact {
        add_clsact(&link.name)?;
    }
    let [ingress, egress] = filters;
    // A reply that no program restores, the client would answer with a RST. So both hooks are there for a while:
    // what the first has restored, the second knows nothing of.
    attach_one(object, pins, hook, link, Direction::Egress, egress)?;
    detach_other(pins, hook, link, Direction::Egress, egress)?;
    // Not so where requests enter: what the first has translated, the second would take for a direct connection.
    // A request that meets neither is sent again.
    detach_other(pins, hook, link, Direction::Ingress, ingress)?;
    attach_one(object, pins, hook, link, Direction::Ingress, ingress)
}

fn attach_one(
    object: &mut Ebpf,
    pins: &Pins,
    hook: Hook,
    link: &Facts,
    direction: Direction,
    filters: &[Filter],
) -> anyhow::Result<()> {
    let program = load::program(object, program_name(link, direction))?;
    match hook {
        Hook::Tcx => attach_tcx(program, pins, link, direction),
        Hook::Clsact => attach_clsact(program, link, direction, filters),
    }
}

/// Takes away what hangs on the hook that is not this one.
fn detach_other(
    pins: &Pins,
    hook: Hook,
    link: &Facts,
    direction: Direction,
    filters: &[Filter],
) -> anyhow::Result<()> {
    match hook {
        Hook::Tcx => detach_clsact(&link.name, direction, filters),
        Hook::Clsact => unpin(pins, link.index, direction),
    }
}

/// Did the kernel say that it does not know TCX? Tried, not guessed from its version.
fn lacks_tcx(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<ProgramError>() {
        Some(ProgramError::SyscallError(SyscallError { io_error, .. })) => {
            matches!(io_error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
        }
        _ => false,
    }
}

fn attach_tcx(
    program: &mut SchedClassifier,
    pins: &Pins,
    link: &Facts,
    direction: Direction,
) -> anyhow::Result<()> {
    let pin = pins.link(link.index, direction.name());
    match PinnedLink::from_pin(&pin) {
        Ok(pinned) => {
            let old: SchedClassifierLink =
                FdLink::from(pinned).try_into().map_err(|error| anyhow!("{error}"))?;
            match program.attach_to_link(old) {
                // The pin keeps the link; our descriptor may go.
                Ok(id) => {
                    drop(program.take_link(id)?);
                    return Ok(());
                }
                Err(ProgramError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::ENOLINK) =>
                {
                    std::fs::remove_file(&pin)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("open {}", pin.display())),
    }
    let order = match direction {
        Direction::Ingress => LinkOrder::first(),
        Direction::Egress => LinkOrder::last(),
    };
    let id =
        program.attach_with_options(&link.name, attach_type(direction), TcAttachOptions::TcxOrder(order))?;
    let fd: FdLink = program.take_link(id)?.try_into().map_err(|error| anyhow!("{error}"))?;
    fd.pin(&pin).with_context(|| format!("pin {}", pin.display()))?;
    Ok(())
}

/// Do the pinned TCX links of an interface hang where they should?
pub fn is_on_tcx(pins: &Pins, ifindex: u32) -> bool {
    Direction::BOTH.iter().all(|direction| {
        link::pinned_target(&pins.link(ifindex, direction.name())).is_ok_and(|at| at == ifindex)
    })
}

fn add_clsact(name: &str) -> anyhow::Result<()> {
    match qdisc_add_clsact(name) {
        Ok(()) => Ok(()),
        Err(error) => {
            let exists = matches!(&error, aya::programs::TcError::NetlinkError(inner)
                if inner.raw_os_error() == Some(libc::EEXIST));
            if exists { Ok(()) } else { Err(error).context("add clsact") }
        }
    }
}

fn attach_clsact(
    program: &mut SchedClassifier,
    link: &Facts,
    direction: Direction,
    filters: &[Filter],
) -> anyhow::Result<()> {
    let priority = match direction {
        Direction::Ingress => FIRST,
        Direction::Egress => LAST,
    };
    let mut ours = filters.iter().filter(|filter| is_ours(filter));
    let id = match ours.next() {
        Some(old) => {
            let old = taken(&link.name, direction, old)?;
            program.attach_to_link(old)?
        }
        None => program.attach_with_options(
            &link.name,
            attach_type(direction),
            TcAttachOptions::Netlink(NlOptions { priority, ..NlOptions::default() }),
        )?,
    };
    // Such a link has no descriptor: it lives until somebody removes it, but aya's handle would on drop.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

fn taken(name: &str, direction: Direction, filter: &Filter) -> anyhow::Result<SchedClassifierLink> {
    let handle = TcHandle::new(filter.handle.0, filter.handle.1);
    Ok(SchedClassifierLink::attached(name, attach_type(direction), filter.priority, handle, None)?)
}

/// Removes what we have on a link's clsact.
///
/// # Errors
/// The kernel's.
pub fn detach_clsact(name: &str, direction: Direction, filters: &[Filter]) -> anyhow::Result<()> {
    use aya::programs::links::Link;
    for filter in filters.iter().filter(|filter| is_ours(filter)) {
        if let Err(error) = taken(name, direction, filter)?.detach() {
            bail!("detach from {name} {}: {error}", direction.name());
        }
    }
    Ok(())
}

/// Detaches a pinned link and removes its pin.
///
/// # Errors
/// Where the link cannot be detached or the pin not be removed.
pub fn unpin(pins: &Pins, ifindex: u32, direction: Direction) -> anyhow::Result<()> {
    let pin = pins.link(ifindex, direction.name());
    match link::detach_pinned(&pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        detached => detached.with_context(|| format!("detach {}", pin.display()))?,
    }
    match std::fs::remove_file(&pin) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("remove {}", pin.display())),
    }
}
