//! Programs on links: by TCX if the kernel has it and no other program is attached by clsact, else by clsact.
//!
//! The order relative to other programs is symmetric: first on ingress, last on egress, so that a policy program in
//! between sees both directions translated. TCX always runs before clsact, hence clsact next to the clsact program of
//! another owner.

pub mod cgroup;
pub mod clsact;
pub mod place;
pub mod tcx;

use anyhow::Context;
use aya::Ebpf;

use super::load;
use super::pins::Pins;
use crate::node::netdev::{Direction, Facts, Filter};
use place::{Place, is_ours};

/// How to attach programs to links: `--attach`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Mode {
    /// Try TCX; use clsact if the kernel has no TCX or another clsact program is attached to the link.
    #[default]
    Auto,
    Tcx,
    Clsact,
}

/// How a program is attached to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    Tcx,
    Clsact,
}

/// Attaches the programs to a pod's link, or replaces those that are attached: atomically, if the hook stays the same.
/// `filters` are those of ingress and egress.
///
/// # Errors
/// If neither hook takes the program, or the requested hook does not.
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
            Err(error) if mode == Mode::Auto && tcx::is_unknown(&error) => {}
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
        clsact::add(&link.name)?;
    }
    let [ingress, egress] = filters;
    let ingress = Place { link, direction: Direction::Ingress, filters: ingress };
    let egress = Place { link, direction: Direction::Egress, filters: egress };
    // The client would answer a reply that no program restores with a RST. Both hooks are therefore attached for a
    // while: a reply that the first program has restored is unknown to the second.
    attach_one(object, pins, hook, egress)?;
    detach_other(pins, hook, egress)?;
    // Not so for requests: the second program would take a request that the first has translated for a direct
    // connection. A request that meets neither program is sent again.
    detach_other(pins, hook, ingress)?;
    attach_one(object, pins, hook, ingress)
}

fn attach_one(object: &mut Ebpf, pins: &Pins, hook: Hook, place: Place) -> anyhow::Result<()> {
    let program = load::program(object, place.program())?;
    match hook {
        Hook::Tcx => tcx::attach(program, pins, place),
        Hook::Clsact => clsact::attach(program, place),
    }
}

/// Detaches what is attached by the other hook.
fn detach_other(pins: &Pins, hook: Hook, place: Place) -> anyhow::Result<()> {
    match hook {
        Hook::Tcx => clsact::detach(place),
        Hook::Clsact => tcx::detach(pins, place.link.index, place.direction),
    }
}
