//! From tables of another size or an older layout to those of this version.
//!
//! A map that is the same is kept: the very same object. The others are created anew, next to the previous ones. What
//! the agent writes, and what is counted, is copied before any program is swapped; nothing changes the former then.
//! Flows are not copied yet, because packets continue to create them. The programs that are attached to the links for
//! the change look up a flow in the previous tables if the new ones lack it, and take it over. When these programs are
//! on every link, no program writes the previous tables any longer: the remaining flows are copied, and the usual
//! programs replace these. Flows that are copied have no slot in a ring; if they do not end, the sweep finds them.

use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, ensure};
use aya::Ebpf;
use lb_common::{Addr, COARSE_FIRST, Flow, FlowKey, Phase, ReadThrough, SCHEMA, names, range_bit};

use super::pins::Set;
use super::shape::{self, Shape};
use super::sys::entries;
use super::sys::pin;

/// The bytes of a key and of its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// How an entry of a map of an older schema becomes an entry of this schema. A change that raises [`SCHEMA`] adds a
/// line for each map whose layout changed. Programs that read through to flows convert them as [`longer`] does.
#[derive(Clone, Copy)]
pub struct Converter {
    pub map: &'static str,
    /// The older schema.
    pub from: u32,
    /// Bytes of the older key.
    pub key: usize,
    /// Bytes of the older value.
    pub value: usize,
    /// Converts an older key and value to a new key and value. Per-CPU values are converted for one CPU at a time.
    pub convert: fn(&[u8], &[u8]) -> Entry,
}

/// The conversions of this version.
pub const CONVERTERS: &[Converter] = &[
    // Schema 1 had one bit for each block of addresses. The agent sets the bits of this schema before programs look for
    // them (`Planner::missing_bits`). The bits of ports, which flows need as well, stay.
    Converter { map: names::INTEREST_COARSE, from: 1, key: 4, value: 8, convert: ports_only },
    // Before schema 3, a flow was shorter.
    Converter { map: names::FLOWS, from: 1, key: FLOW_KEY, value: Flow::LEN_V2, convert: longer },
    Converter { map: names::FLOWS, from: 2, key: FLOW_KEY, value: Flow::LEN_V2, convert: longer },
];

const FLOW_KEY: usize = size_of::<FlowKey>();

fn longer(key: &[u8], flow: &[u8]) -> Entry {
    let mut flow = flow.to_vec();
    flow.resize(size_of::<Flow>(), 0);
    (key.to_vec(), flow)
}

/// The maps that hold flows in a schema. Before schema 3 there was one for assured flows, and two for others.
const fn flow_maps(schema: u32) -> &'static [&'static str] {
    if schema < 3 { &[names::FLOWS, names::FLOWS_SYN, names::FLOWS_UDP] } else { &[names::FLOWS] }
}

fn ports_only(key: &[u8], value: &[u8]) -> Entry {
    let first_block = range_bit(Addr::from_v4_word(0)) - COARSE_FIRST;
    let is_of_ports = index(key) * 64 < first_block;
    (key.to_vec(), if is_of_ports { value.to_vec() } else { vec![0; value.len()] })
}

/// What happens to a map.
#[derive(Clone, Copy)]
pub enum Step {
    /// The same object stays in use.
    Keep,
    /// There is no such map yet: a new one is created.
    Make,
    /// A new map gets the content.
    Copy(Option<Converter>),
}

/// What happens to each map.
pub type MigrationPlan = Vec<(&'static str, Shape, Step)>;

/// Whether there is nothing to do.
pub fn is_same(found: &Set, plan: &MigrationPlan) -> bool {
    found.schema == SCHEMA && plan.iter().all(|(_, _, step)| matches!(step, Step::Keep))
}

/// Plans how the tables that were found become the wanted ones.
///
/// # Errors
/// If a map cannot become the wanted one. The error names the first such map, and what to do.
pub fn plan(
    found: &Set,
    wanted: &[(&'static str, Shape)],
    converters: &[Converter],
) -> anyhow::Result<MigrationPlan> {
    ensure!(
        found.schema <= SCHEMA,
        "{} holds tables of schema v{}, newer than this lb (v{SCHEMA}): use the lb that made them, or remove them \
         with `lb cleanup`, which ends the connections through them",
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
            "{} does not have the layout of schema v{}",
            pin.display(),
            found.schema
        );
        return Ok(Step::Copy(Some(*converter)));
    }
    if shape == *wanted {
        return Ok(Step::Keep);
    }
    // The slots of rings of another size are other slots. A flow that has none is found by the sweep.
    if name == names::RINGS && shape.has_layout_of(wanted) {
        return Ok(Step::Make);
    }
    // The size of a bitmap is part of its hash.
    let is_bitmap = [names::INTEREST, names::INTEREST_COARSE].contains(&name);
    if !shape.has_layout_of(wanted) || is_bitmap {
        return Err(shape::misfit(&pin, &shape, wanted));
    }
    let used = if shape.entries > wanted.entries { used(found, name, &shape)? } else { 0 };
    ensure!(
        used <= wanted.entries as usize,
        "{} has {used} entries in use, more than the requested size of {}: choose a larger size",
        pin.display(),
        wanted.entries
    );
    Ok(Step::Copy(None))
}

/// Number of entries in use; of an array, the entries up to the last that is not 0.
fn used(found: &Set, name: &str, shape: &Shape) -> anyhow::Result<usize> {
    let mut used = 0;
    each(&open(found, name)?, shape, |key, value| {
        if name == names::FLOWS {
            // Others may be left out.
            used += usize::from(is_live(value));
        } else if !shape.is_array() {
            used += 1;
        } else if value.iter().any(|byte| *byte != 0) {
            used = used.max(index(key) as usize + 1);
        }
        Ok(())
    })?;
    Ok(used)
}

/// Whether an entry of a flow, of any schema, is of a live flow.
fn is_live(value: &[u8]) -> bool {
    let phase = value[offset_of!(Flow, phase)];
    phase == Phase::Assured.number() || phase == Phase::Closing.number()
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

/// Pins the maps that are kept a second time, in the folder of the new tables.
///
/// # Errors
/// If a map cannot be opened or pinned.
pub fn keep(plan: &MigrationPlan, found: &Set, next: &Set) -> anyhow::Result<()> {
    for (name, ..) in plan.iter().filter(|(_, _, step)| matches!(step, Step::Keep)) {
        let pin = next.map(name);
        pin::pin(&open(found, name)?, &pin).with_context(|| format!("pin {}", pin.display()))?;
    }
    Ok(())
}

/// Copies what must be complete before a program is swapped: what the agent wrote, and what was counted. Packets that
/// are counted meanwhile are not in the copy.
///
/// # Errors
/// If a map cannot be read or written.
pub fn copy_tables(plan: &MigrationPlan, found: &Set, next: &Set) -> anyhow::Result<()> {
    for (name, wanted, step) in plan.iter().filter(|(name, ..)| *name != names::FLOWS) {
        if let Step::Copy(converter) = step {
            copy_table(name, wanted, *converter, found, next).with_context(|| format!("copy {name}"))?;
        }
    }
    Ok(())
}

fn copy_table(
    name: &str,
    wanted: &Shape,
    converter: Option<Converter>,
    found: &Set,
    next: &Set,
) -> anyhow::Result<()> {
    let shape = Shape::pinned(&found.map(name))?.context("the previous map is gone")?;
    let (from, to) = (open(found, name)?, open(next, name)?);
    each(&from, &shape, |key, value| {
        // A new array holds 0 everywhere.
        if shape.is_array() && value.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let (key, value) = converted(converter, &shape, key, value);
        ensure!(value.len() == wanted.value_bytes()?, "a value of {} bytes has the wrong size", value.len());
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

/// A change of the tables whose programs are not swapped yet.
pub struct Migration {
    pub plan: MigrationPlan,
    /// The previous tables.
    pub before: Set,
    /// Programs that also look up flows in the previous tables.
    pub reading_through: Ebpf,
}

/// Which previous tables of flows the programs read, and the maps, with their sizes.
///
/// # Errors
/// If a map cannot be opened.
pub fn read_through(
    plan: &MigrationPlan,
    before: &Set,
) -> anyhow::Result<(ReadThrough, Vec<(&'static str, u32)>)> {
    if !plan.iter().any(|(name, _, step)| *name == names::FLOWS && matches!(step, Step::Copy(_))) {
        return Ok((ReadThrough::Nothing, Vec::new()));
    }
    let mut maps = Vec::new();
    for name in flow_maps(before.schema) {
        let shape = Shape::pinned(&before.map(name))?.with_context(|| format!("no {name}"))?;
        maps.push((*name, shape.entries));
    }
    Ok((if before.schema < 3 { ReadThrough::V2 } else { ReadThrough::Same }, maps))
}

/// Copies the flow entries that the new table does not have, and returns their number. What the packet path has done
/// since to the entries that are there is not undone.
///
/// # Errors
/// If a map cannot be read or written.
pub fn copy_flows(plan: &MigrationPlan, before: &Set, tables: &Set) -> anyhow::Result<usize> {
    let flows = plan.iter().find(|(name, ..)| *name == names::FLOWS);
    let Some((name, wanted, Step::Copy(converter))) = flows else { return Ok(0) };
    let to = open(tables, name)?;
    let (mut copied, mut full) = (0, 0);
    // Live flows first: if the table is too small for all, others are left out.
    let passes = [true, false]
        .into_iter()
        .flat_map(|live| flow_maps(before.schema).iter().map(move |name| (live, name)));
    for (live, name) in passes {
        let shape = Shape::pinned(&before.map(name))?.context("the previous map is gone")?;
        each(&open(before, name)?, &shape, |key, value| {
            if is_live(value) != live {
                return Ok(());
            }
            let (key, value) = converted(*converter, &shape, key, value);
            ensure!(value.len() == wanted.value, "a value of {} bytes has the wrong size", value.len());
            match entries::update(to.as_fd(), &key, &value, entries::NOEXIST) {
                Ok(()) => copied += 1,
                // A packet has taken the entry over, or created it.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) if error.raw_os_error() == Some(libc::E2BIG) => full += 1,
                Err(error) => return Err(error.into()),
            }
            Ok(())
        })
        .with_context(|| format!("copy {name}"))?;
    }
    if full > 0 {
        tracing::warn!(entries = full, "the flow table is full: flows of the previous one are left out");
    }
    Ok(copied)
}
