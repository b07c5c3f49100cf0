//! Programs attached by clsact, if the kernel has no TCX or another classifier is attached to the link.

use anyhow::{Context, bail};
use aya::programs::SchedClassifier;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact};

use super::place::{Place, attach_type};
use crate::node::netdev::{Direction, Filter};

/// Lower numbers run first.
const FIRST: u16 = 1;
const LAST: u16 = u16::MAX;

/// Adds the qdisc, if the link has none.
pub(super) fn add(name: &str) -> anyhow::Result<()> {
    match qdisc_add_clsact(name) {
        Ok(()) => Ok(()),
        Err(error) => {
            let exists = matches!(&error, aya::programs::TcError::NetlinkError(inner)
                if inner.raw_os_error() == Some(libc::EEXIST));
            if exists { Ok(()) } else { Err(error).context("add clsact") }
        }
    }
}

/// Attaches a program, or replaces the program of our classifier.
pub(super) fn attach(program: &mut SchedClassifier, place: Place) -> anyhow::Result<()> {
    let priority = match place.direction {
        Direction::Ingress => FIRST,
        Direction::Egress => LAST,
    };
    let id = match place.ours().next() {
        Some(old) => {
            let old = taken(place, old)?;
            program.attach_to_link(old)?
        }
        None => program.attach_with_options(
            &place.link.name,
            attach_type(place.direction),
            TcAttachOptions::Netlink(NlOptions { priority, ..NlOptions::default() }),
        )?,
    };
    // Such a link has no descriptor: it stays until it is removed, which aya's handle would do on drop.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// aya's handle of an attached classifier.
fn taken(place: Place, filter: &Filter) -> anyhow::Result<SchedClassifierLink> {
    let handle = TcHandle::new(filter.handle.0, filter.handle.1);
    let direction = attach_type(place.direction);
    Ok(SchedClassifierLink::attached(&place.link.name, direction, filter.priority, handle, None)?)
}

/// Removes our classifiers from a link.
///
/// # Errors
/// If a classifier cannot be detached.
pub fn detach(place: Place) -> anyhow::Result<()> {
    use aya::programs::links::Link;
    for filter in place.ours() {
        if let Err(error) = taken(place, filter)?.detach() {
            bail!("detach from {} {}: {error}", place.link.name, place.direction.name());
        }
    }
    Ok(())
}
