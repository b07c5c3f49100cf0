//! Programs attached by TCX. Their links are pinned, so that they outlive the agent.

use std::io;

use anyhow::{Context, anyhow};
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier};
use aya::sys::SyscallError;

use super::place::{Place, attach_type};
use crate::dataplane::pins::Pins;
use crate::dataplane::sys::link;
use crate::node::netdev::Direction;

/// Whether the kernel's error means that it does not know TCX. TCX is tried; the kernel's version is not used to guess.
pub(super) fn is_unknown(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<ProgramError>() {
        Some(ProgramError::SyscallError(SyscallError { io_error, .. })) => {
            matches!(io_error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
        }
        _ => false,
    }
}

/// Attaches a program, or replaces the program of the pinned link.
pub(super) fn attach(program: &mut SchedClassifier, pins: &Pins, place: Place) -> anyhow::Result<()> {
    let pin = pins.link(place.link.index, place.direction.name());
    match PinnedLink::from_pin(&pin) {
        Ok(pinned) => {
            let old: SchedClassifierLink =
                FdLink::from(pinned).try_into().map_err(|error| anyhow!("{error}"))?;
            match program.attach_to_link(old) {
                // The pin keeps the link; our descriptor is not needed.
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
    let order = match place.direction {
        Direction::Ingress => LinkOrder::first(),
        Direction::Egress => LinkOrder::last(),
    };
    let id = program.attach_with_options(
        &place.link.name,
        attach_type(place.direction),
        TcAttachOptions::TcxOrder(order),
    )?;
    let fd: FdLink = program.take_link(id)?.try_into().map_err(|error| anyhow!("{error}"))?;
    fd.pin(&pin).with_context(|| format!("pin {}", pin.display()))?;
    Ok(())
}

/// Whether the pinned TCX links of an interface are attached to it.
pub fn is_attached(pins: &Pins, ifindex: u32) -> bool {
    Direction::BOTH.iter().all(|direction| {
        link::pinned_target(&pins.link(ifindex, direction.name())).is_ok_and(|at| at == ifindex)
    })
}

/// Detaches a pinned link and removes its pin.
///
/// # Errors
/// If the link cannot be detached or the pin cannot be removed.
pub fn detach(pins: &Pins, ifindex: u32, direction: Direction) -> anyhow::Result<()> {
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
