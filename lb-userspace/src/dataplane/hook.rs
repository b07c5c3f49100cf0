//! Programs on links: TCX where the kernel has it and nobody sits on clsact, else clsact.
//!
//! Order beside others is symmetric: first on ingress, last on egress, so that a policy program between sees
//! both directions translated. TCX runs before clsact always, hence clsact beside a clsact program of somebody
//! else.

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
    // A reply that no program restores, the client would answer with a RST. So both hooks are there for a while:
    // what the first has restored, the second knows nothing of.
    attach_one(object, pins, hook, egress)?;
    detach_other(pins, hook, egress)?;
    // Not so where requests enter: what the first has translated, the second would take for a direct connection.
    // A request that meets neither is sent again.
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

/// Takes away what hangs on the hook that is not this one.
fn detach_other(pins: &Pins, hook: Hook, place: Place) -> anyhow::Result<()> {
    match hook {
        Hook::Tcx => clsact::detach(place),
        Hook::Clsact => tcx::detach(pins, place.link.index, place.direction),
    }
}
