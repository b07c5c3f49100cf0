//! From tables of another size or an older layout to those of this version.
//!
//! Maps that are the same are kept, the very same objects. Of the others, new ones are made beside them. What the
//! agent writes and what is counted is copied before any program is swapped; nobody writes the former meanwhile.
//! Flows are not: packets go on making them. The programs that are put under the links for the change look for a
//! flow in the tables before, when the new ones do not have it, and take it over. When they are everywhere, nobody
//! writes the old tables any more: the rest is copied, and the programs are swapped for the usual ones.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, ensure};
use aya::Ebpf;
use lb_common::{Addr, COARSE_FIRST, Proto, SCHEMA, names, range_bit};

use super::pins::Set;
use super::shape::{self, Shape};
use super::sys::entries;
use super::sys::pin;

/// The flow table's parts, as they are searched: what is assured, then the LRUs.
const FLOW_PARTS: [&str; 3] = [names::FLOWS, names::FLOWS_SYN, names::FLOWS_UDP];
/// Offset of `proto` in a key of theirs.
const PROTO: usize = std::mem::offset_of!(lb_common::FlowKey, proto);

/// Bytes of a key and of its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// How an entry of a map of an older schema becomes one of this: whoever raises [`SCHEMA`] adds a line for each
/// map whose layout changed. (For flows, packets do not read through: those that begin in the milliseconds in which
/// programs are swapped are copied after it, and unknown until then. Programs that shall read flows of an older
/// layout need that layout as the type of `old_flows` and its siblings.)
#[derive(Clone, Copy)]
pub struct Converter {
    pub map: &'static str,
    pub from: u32,
    /// Bytes of the older key and value.
    pub key: usize,
    pub value: usize,
    /// An older key and value to a new key and value; per-CPU values one CPU at a time.
    pub convert: fn(&[u8], &[u8]) -> Entry,
}

pub const CONVERTERS: &[Converter] = &[
    // Of the blocks of addresses it had one bit each. The agent sets those of this schema before programs look for them
    // (`Planner::missing_bits`); what flows need beside, the bits of ports, stays.
    Converter { map: names::INTEREST_COARSE, from: 1, key: 4, value: 8, convert: ports_only },
];

fn ports_only(key: &[u8], value: &[u8]) -> Entry {
    let first_block = range_bit(Addr::from_v4_word(0)) - COARSE_FIRST;
    let is_of_ports = index(key) * 64 < first_block;
    (key.to_vec(), if is_of_ports { value.to_vec() } else { vec![0; value.len()] })
}

/// What becomes of a map.
#[derive(Clone, Copy)]
pub enum Step {
    /// The same object serves on.
    Keep,
    /// There was none.
    Make,
    /// A new one gets the content.
    Copy(Option<Converter>),
}

/// What becomes of each map.
pub type MigrationPlan = Vec<(&'static str, Shape, Step)>;

/// Is there nothing to do?
pub fn is_same(found: &Set, plan: &MigrationPlan) -> bool {
    found.schema == SCHEMA && plan.iter().all(|(_, _, step)| matches!(step, Step::Keep))
}

/// How tables that were found become those that are wanted.
///
/// # Errors
/// Names the first map that cannot, and what to do.
pub fn plan(
    found: &Set,
    wanted: &[(&'static str, Shape)],
    converters: &[Converter],
) -> anyhow::Result<MigrationPlan> {
    ensure!(
        found.schema <= SCHEMA,
        "{} holds tables of schema v{}, newer than this lb (v{SCHEMA}): use the lb that made them, or remove them \
         by `lb cleanup`; connections that go through them end",
        found.path().display(),
        found.schema
    );
    wanted.iter().map(|(name, wanted)| Ok((*name, *wanted, step(found, name, wanted, converters)?))).collect()
}

fn step(found: &Set, name: &str, wanted: &Shape, converters: &[Converter]) -> anyhow::Result<Step> {
    let pin = found.map(name);
    let Some(shape) = Shape::pinned(&pin)? else { return Ok(Step::Make) };
    if let Some(converter) = converters.iter().find(|c| c.map == name && c.from == found.schema) {
        ensure!(
            (shape.key, shape.value) == (converter.key, converter.value),
            "{} is not of schema v{}",
            pin.display(),
            found.schema
        );
        return Ok(Step::Copy(Some(*converter)));
    }
    if shape == *wanted {
        return Ok(Step::Keep);
    }
    // The size of a bitmap is part of its hash.
    let is_bitmap = [names::INTEREST, names::INTEREST_COARSE].contains(&name);
    if !shape.has_layout_of(wanted) || is_bitmap {
        return Err(shape::misfit(&pin, &shape, wanted));
    }
    let used = if shape.entries > wanted.entries { used(found, name, &shape)? } else { 0 };
    ensure!(
        used <= wanted.entries as usize,
        "{} has {used} entries in use, and is to have room for {}: choose a larger size",
        pin.display(),
        wanted.entries
    );
    Ok(Step::Copy(None))
}

/// Entries in use; of an array, up to the last that is not 0.
fn used(found: &Set, name: &str, shape: &Shape) -> anyhow::Result<usize> {
    let mut used = 0;
    each(&open(found, name)?, shape, |key, value| {
        if !shape.is_array() {
            used += 1;
        } else if value.iter().any(|byte| *byte != 0) {
            used = used.max(index(key) as usize + 1);
        }
        Ok(())
    })?;
    Ok(used)
}

fn index(key: &[u8]) -> u32 {
    u32::from_ne_bytes([key[0], key[1], key[2], key[3]])
}

fn open(set: &Set, name: &str) -> anyhow::Result<OwnedFd> {
    let pin = set.map(name);
    pin::get_pinned(&pin).with_context(|| format!("open {}", pin.display()))
}

fn each(
    map: &OwnedFd,
    shape: &Shape,
    mut visit: impl FnMut(&[u8], &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut failed = Ok(());
    entries::for_each_bytes(map.as_fd(), shape.key, shape.value_bytes()?, |key, value| {
        if failed.is_ok() {
            failed = visit(key, value);
        }
    })?;
    failed
}

/// Pins the maps that are kept beside those that are to come.
///
/// # Errors
/// The kernel's.
pub fn keep(plan: &MigrationPlan, found: &Set, next: &Set) -> anyhow::Result<()> {
    for (name, ..) in plan.iter().filter(|(_, _, step)| matches!(step, Step::Keep)) {
        let pin = next.map(name);
        pin::pin(&open(found, name)?, &pin).with_context(|| format!("pin {}", pin.display()))?;
    }
    Ok(())
}

/// Copies what is to be there before a program is swapped: what the agent wrote, what was counted, and flows of an
/// older layout, which packets do not read through to. Packets that are counted meanwhile are not in the copy.
///
/// # Errors
/// The kernel's.
pub fn copy_tables(plan: &MigrationPlan, found: &Set, next: &Set) -> anyhow::Result<()> {
    for (name, wanted, step) in plan.iter().filter(|(name, ..)| !FLOW_PARTS.contains(name)) {
        if let Step::Copy(converter) = step {
            copy_table(name, wanted, *converter, found, next).with_context(|| format!("copy {name}"))?;
        }
    }
    let converted: MigrationPlan =
        plan.iter().copied().filter(|(_, _, step)| matches!(step, Step::Copy(Some(_)))).collect();
    copy_flows(&converted, found, next).map(drop)
}

fn copy_table(
    name: &str,
    wanted: &Shape,
    converter: Option<Converter>,
    found: &Set,
    next: &Set,
) -> anyhow::Result<()> {
    let shape = Shape::pinned(&found.map(name))?.context("it was there")?;
    let (from, to) = (open(found, name)?, open(next, name)?);
    each(&from, &shape, |key, value| {
        // What is 0 in an array is so in a new one.
        if shape.is_array() && value.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let (key, value) = converted(converter, &shape, key, value);
        ensure!(value.len() == wanted.value_bytes()?, "a value of {} bytes", value.len());
        Ok(entries::update(to.as_fd(), &key, &value, entries::ANY)?)
    })
}

fn converted(converter: Option<Converter>, shape: &Shape, key: &[u8], value: &[u8]) -> Entry {
    let Some(Converter { convert, .. }) = converter else { return (key.to_vec(), value.to_vec()) };
    if shape.value == value.len() {
        return convert(key, value);
    }
    let mut whole = (Vec::new(), Vec::new());
    for cpu in value.chunks(shape.value.next_multiple_of(8)) {
        let (key, mut value) = convert(key, &cpu[..shape.value]);
        value.resize(value.len().next_multiple_of(8), 0);
        whole.0 = key;
        whole.1.extend(value);
    }
    whole
}

/// A change of the tables whose programs are still to be swapped.
pub struct Migration {
    pub plan: MigrationPlan,
    /// The tables before.
    pub before: Set,
    /// Programs that look for flows there, too.
    pub reading_through: Ebpf,
}

/// The parts of the flow table that programs read through to, and how large they were.
///
/// # Errors
/// Where a map cannot be opened.
pub fn read_through(plan: &MigrationPlan, before: &Set) -> anyhow::Result<Vec<(&'static str, u32)>> {
    let mut parts = Vec::new();
    for (name, _, step) in plan.iter().filter(|(name, ..)| FLOW_PARTS.contains(name)) {
        if let (Step::Copy(None), Some(shape)) = (step, Shape::pinned(&before.map(name))?) {
            parts.push((*name, shape.entries));
        }
    }
    Ok(parts)
}

/// Copies entries of flows that the new tables know in no part; how many. What the packet path has since done to
/// those that it knows is not undone.
///
/// # Errors
/// The kernel's.
pub fn copy_flows(plan: &MigrationPlan, before: &Set, tables: &Set) -> anyhow::Result<usize> {
    let (assured, syn, udp) =
        (open(tables, names::FLOWS)?, open(tables, names::FLOWS_SYN)?, open(tables, names::FLOWS_UDP)?);
    let (assured, syn, udp) = (assured.as_fd(), syn.as_fd(), udp.as_fd());
    let mut copied = 0;
    for (name, wanted, step) in plan {
        let (true, Step::Copy(converter)) = (FLOW_PARTS.contains(name), step) else { continue };
        let shape = Shape::pinned(&before.map(name))?.context("it was there")?;
        each(&open(before, name)?, &shape, |key, value| {
            let (key, value) = converted(*converter, &shape, key, value);
            ensure!(value.len() == wanted.value, "a value of {} bytes", value.len());
            for part in [assured, syn, udp] {
                if entries::contains(part, &key, wanted.value)? {
                    return Ok(());
                }
            }
            let lru = if key[PROTO] == Proto::Tcp.number() { syn } else { udp };
            let part = if *name == names::FLOWS { assured } else { lru };
            let done = match entries::update(part, &key, &value, entries::NOEXIST) {
                // Full: it stays in the LRU and works, as for a packet.
                Err(error) if error.raw_os_error() == Some(libc::E2BIG) => {
                    entries::update(lru, &key, &value, entries::NOEXIST)
                }
                done => done,
            };
            match done {
                Ok(()) => copied += 1,
                // A packet was quicker.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
            Ok(())
        })
        .with_context(|| format!("copy {name}"))?;
    }
    Ok(copied)
}
