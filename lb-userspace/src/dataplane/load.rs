//! The object that `lb` carries: maps opened or made and pinned, programs verified.

use anyhow::Context;
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use lb_common::names;

use super::maps;
use super::pins::Pins;

/// Compiled by `build.rs`, so that the binary needs nothing but the kernel.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf"));

/// Settings of the packet path that are constants to the verifier.
#[derive(Clone, Copy, Default, Debug)]
pub struct Constants {
    /// Segments of unknown connections go on to the kernel instead of getting a RST.
    pub adopt: bool,
}

/// Loads the object. Maps that are pinned are used as they are, after their shape was compared; the others are
/// made and pinned.
///
/// # Errors
/// A map of another shape, a kernel that refuses a program (with the verifier's last words), no privilege.
pub fn object(pins: &Pins, constants: Constants) -> anyhow::Result<Ebpf> {
    maps::check_shapes(pins)?;
    let adopt = u8::from(constants.adopt);
    let mut loader = EbpfLoader::new();
    loader.override_global("ADOPT", &adopt, true);
    for name in names::MAPS {
        loader.map_pin_path(name, pins.map(name));
    }
    let mut object = loader.load(OBJECT).context(
        "load the packet path's maps: run as root (CAP_BPF and CAP_NET_ADMIN) on a kernel with BTF and BPF",
    )?;
    for name in names::ON_LINKS.into_iter().chain([names::SWEEP]) {
        program(&mut object, name)?
            .load()
            .with_context(|| format!("the kernel refuses the program {name}"))?;
    }
    Ok(object)
}

/// A program of the object by name.
///
/// # Errors
/// Where the object has no such program: a build of mixed versions.
pub fn program<'a>(object: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut SchedClassifier> {
    let program = object.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    Ok(program.try_into()?)
}
