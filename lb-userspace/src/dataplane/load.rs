//! The object that `lb` carries: maps opened or made and pinned, programs verified.

use anyhow::Context;
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use lb_common::names;

use super::maps;
use super::pins::{Pins, Set};

/// Compiled by `build.rs`, so that the binary needs nothing but the kernel.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf"));

/// Settings of the packet path that are constants to the verifier.
#[derive(Clone, Copy, Default, Debug)]
pub struct Constants {
    /// Segments of unknown connections go on to the kernel instead of getting a RST.
    pub adopt: bool,
}

/// Loads the object on the tables in force, or on fresh ones where there are none. Under the lock.
///
/// # Errors
/// A map of another shape, a kernel that refuses a program (with the verifier's last words), no privilege. Then
/// nothing has changed.
pub fn object(pins: &Pins, constants: Constants) -> anyhow::Result<Ebpf> {
    pins.recover()?;
    if let Some(tables) = pins.in_force()? {
        maps::check_shapes(&tables)?;
        return load(constants, On::Pins(&tables));
    }
    let next = pins.begin()?;
    match load(constants, On::Pins(&next)) {
        Ok(object) => pins.commit(&next).map(|()| object),
        Err(error) => {
            next.remove()?;
            Err(error)
        }
    }
}

/// Finds out, beside an agent that runs, whether this one could take over: whether the tables are what it wants,
/// and whether the kernel takes its programs. They are loaded with maps of their own that have one entry each.
///
/// # Errors
/// Those of [`object`].
pub fn try_out(pins: &Pins, constants: Constants) -> anyhow::Result<()> {
    if let Some(tables) = pins.in_force()? {
        maps::check_shapes(&tables)?;
    }
    load(constants, On::Nothing).map(drop)
}

/// Where the object's maps are to be had.
enum On<'a> {
    /// Those that are pinned there; the others are made and pinned.
    Pins(&'a Set),
    /// Maps of one entry that go with the object.
    Nothing,
}

fn load(constants: Constants, on: On) -> anyhow::Result<Ebpf> {
    let adopt = u8::from(constants.adopt);
    let mut loader = EbpfLoader::new();
    loader.override_global("ADOPT", &adopt, true);
    for name in names::MAPS {
        match on {
            On::Pins(tables) => loader.map_pin_path(name, tables.map(name)),
            On::Nothing => loader.map_max_entries(name, 1),
        };
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

/// Loads everything and lets it go again: no pin, no link, and maps of a few entries. Gives the number of programs
/// and how many instructions the verifier walked.
///
/// # Errors
/// Where the kernel takes a map or a program not: with the verifier's last words.
pub fn trial() -> anyhow::Result<(usize, u64)> {
    /// The kernel checks an index when the program runs, so a map may be smaller than the agent's.
    const ENTRIES: u32 = 4096;
    let adopt = 0_u8;
    let mut loader = EbpfLoader::new();
    loader.override_global("ADOPT", &adopt, true);
    for (name, entries) in maps::entries() {
        loader.map_max_entries(name, ENTRIES.min(entries as u32));
    }
    let mut object = loader.load(OBJECT).context("the packet path's maps")?;
    let mut instructions = 0;
    let programs = names::ON_LINKS.into_iter().chain([names::SWEEP]);
    for name in programs.clone() {
        let program = program(&mut object, name)?;
        program.load().with_context(|| format!("program {name}"))?;
        instructions += u64::from(program.info()?.verified_instruction_count().unwrap_or_default());
    }
    Ok((programs.count(), instructions))
}
