//! Loads the embedded object: opens the maps, or creates and pins them, and has the programs verified.

use anyhow::Context;
use aya::programs::{ProgramType, SchedClassifier};
use aya::sys::BpfHelper;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use lb_common::{ReadThrough, SCHEMA, names};

use super::hook::cgroup;
use super::migrate::{self, Converter, Migration, MigrationPlan};
use super::pins::{Pins, Set};
use super::shape::{self, Sizes};

/// Compiled by `build.rs`, so that the binary needs only the kernel.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf"));

/// Settings of the packet path that are constants to the verifier.
#[derive(Clone, Copy, Debug)]
pub struct Constants {
    /// Whether segments of unknown connections are passed to the kernel instead of getting a RST.
    pub adopt: bool,
    /// Whether a packet must come by the link of its source to open or end a flow.
    pub source_check: bool,
    /// `SO_NETNS_COOKIE` of the network namespace whose processes are served; 0 for none.
    pub host_netns: u64,
    /// Whether processes of every network namespace are served.
    pub every_netns: bool,
}

impl Default for Constants {
    fn default() -> Self {
        Self { adopt: false, source_check: true, host_netns: 0, every_netns: false }
    }
}

/// When the kernel verifies the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// All of them, at once.
    Now,
    /// Each when [`program`] is asked for it, for tests that run two or three of them.
    WhenUsed,
}

/// The object, loaded on the tables in force.
pub struct Opened {
    pub object: Ebpf,
    /// Present if the tables were replaced: what remains to be done with the links.
    pub migration: Option<Migration>,
}

/// Loads the object on the tables: those in force, fresh tables if there are none, or new tables of these sizes with
/// the content of those in force. The caller holds the lock.
///
/// # Errors
/// If the tables cannot become those of this version, the kernel refuses a program (with the verifier's last lines), or
/// the privilege is missing. Nothing has changed then.
pub fn open(
    pins: &Pins,
    constants: Constants,
    sizes: Sizes,
    converters: &[Converter],
    when: Verification,
) -> anyhow::Result<Opened> {
    pins.recover()?;
    let load = |tables: &Set, before| load(constants, sizes, On::Pins { tables, before }, when);
    let Some(found) = pins.in_force()? else {
        let next = pins.begin()?;
        let object = load(&next, None).or_else(|error| next.remove().and(Err(error)))?;
        pins.commit(&next)?;
        return Ok(Opened { object, migration: None });
    };
    let wanted = shape::wanted(sizes);
    let plan = migrate::plan(&found, &wanted, converters)?;
    if migrate::is_same(&found, &plan) {
        let object = load(&found, None)?;
        // Links may still have programs that use the previous tables: an agent was killed in the middle of a change.
        let Some(before) = pins.replaced()?.pop() else { return Ok(Opened { object, migration: None }) };
        let plan = migrate::plan(&before, &wanted, converters)?;
        let reading_through = load(&found, Some((&before, &plan)))?;
        return Ok(Opened { object, migration: Some(Migration { plan, before, reading_through }) });
    }
    for before in pins.replaced()? {
        // The previous change was not completed. Flows that begin from now on, on links without its programs, are lost.
        if found.schema == SCHEMA {
            let now = shape::of(&found, &wanted)?;
            migrate::copy_flows(&migrate::plan(&before, &now, converters)?, &before, &found)?;
        } else {
            tracing::warn!(
                "{} was left by a change of tables that another version did not complete: its flows are lost",
                before.path().display()
            );
        }
        before.remove()?;
    }
    let next = pins.begin()?;
    let change = || {
        migrate::keep(&plan, &found, &next)?;
        let object = load(&next, None)?;
        let reading_through = load(&next, Some((&found, &plan)))?;
        migrate::copy_tables(&plan, &found, &next)?;
        Ok((object, reading_through))
    };
    let (object, reading_through) = change().or_else(|error| next.remove().and(Err(error)))?;
    let before = pins.commit(&next)?.context("the previous tables are gone")?;
    Ok(Opened { object, migration: Some(Migration { plan, before, reading_through }) })
}

/// What [`try_out`] loaded.
#[derive(Clone, Copy, Debug)]
pub struct Tried {
    pub programs: usize,
    /// Number of instructions that the verifier walked, in all programs together.
    pub instructions: u64,
}

/// Finds out whether this agent could take over, while another may be running: whether the tables are those that it
/// expects, or can become them, and whether the kernel takes its programs. They are loaded with maps of their own that
/// have one entry each (the kernel checks an index when the program runs), and released; nothing is pinned or attached.
///
/// # Errors
/// As in [`open`].
pub fn try_out(pins: &Pins, constants: Constants, sizes: Sizes) -> anyhow::Result<Tried> {
    if let Some(tables) = pins.in_force()? {
        migrate::plan(&tables, &shape::wanted(sizes), migrate::CONVERTERS)?;
    }
    let object = load(constants, sizes, On::Nothing, Verification::Now)?;
    let mut tried = Tried { programs: 0, instructions: 0 };
    for name in programs() {
        let info =
            object.program(name).with_context(|| format!("the object has no program {name}"))?.info()?;
        tried.programs += 1;
        tried.instructions += u64::from(info.verified_instruction_count().unwrap_or_default());
    }
    Ok(tried)
}

/// The programs that an agent loads.
fn programs() -> impl Iterator<Item = &'static str> {
    names::ON_LINKS.into_iter().chain([names::SWEEP]).chain(names::ON_SOCKETS)
}

/// Which maps the object uses.
enum On<'a> {
    /// The maps that are pinned in `tables`; missing maps are created and pinned. Flows are also looked up in the
    /// previous tables, `before`.
    Pins { tables: &'a Set, before: Option<(&'a Set, &'a MigrationPlan)> },
    /// Maps of one entry that end with the object.
    Nothing,
}

fn load(constants: Constants, sizes: Sizes, on: On, when: Verification) -> anyhow::Result<Ebpf> {
    let adopt = u8::from(constants.adopt);
    let source_check = u8::from(constants.source_check);
    let every_netns = u8::from(constants.every_netns);
    let can_set_retval = u8::from(has_set_retval());
    let mut read_through = ReadThrough::Nothing;
    let (shards, live) = (sizes.shards(shape::possible_cpus()?), sizes.live());
    let shard_slots = sizes.ring() / shards;
    let mut loader = EbpfLoader::new();
    for (name, shape) in shape::wanted(sizes) {
        match on {
            On::Pins { tables, .. } => {
                loader.map_max_entries(name, shape.entries).map_pin_path(name, tables.map(name))
            }
            On::Nothing => loader.map_max_entries(name, 1),
        };
    }
    if let On::Pins { before: Some((before, plan)), .. } = on {
        let (which, maps) = migrate::read_through(plan, before)?;
        for (map, entries) in maps {
            let name = names::previous(map).with_context(|| format!("no name for the previous {map}"))?;
            loader.map_max_entries(name, entries).map_pin_path(name, before.map(map));
        }
        read_through = which;
    }
    let read_through = read_through.number();
    loader
        .override_global("SHARDS", &shards, true)
        .override_global("SHARD_SLOTS", &shard_slots, true)
        .override_global("MAX_LIVE", &live, true)
        .override_global("ADOPT", &adopt, true)
        .override_global("SOURCE_CHECK", &source_check, true)
        .override_global("HOST_NETNS", &constants.host_netns, true)
        .override_global("EVERY_NETNS", &every_netns, true)
        .override_global("CAN_SET_RETVAL", &can_set_retval, true)
        .override_global("READ_THROUGH", &read_through, true);
    let mut object = loader.load(OBJECT).context(
        "load the maps of the data path: run as root (CAP_BPF and CAP_NET_ADMIN) on a kernel with BTF and BPF",
    )?;
    if when == Verification::WhenUsed {
        return Ok(object);
    }
    for name in names::ON_LINKS.into_iter().chain([names::SWEEP]) {
        program(&mut object, name)?;
    }
    for name in names::ON_SOCKETS {
        cgroup::program(&mut object, name)?
            .load()
            .with_context(|| format!("the kernel refuses the program {name}"))?;
    }
    Ok(object)
}

/// Whether a program at a socket can choose the error that the process gets (kernel 5.18). The kernel is asked; its
/// version is not used to guess.
fn has_set_retval() -> bool {
    aya::sys::is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval)
        .unwrap_or(false)
}

/// A program of the object by name. The kernel verifies the program unless it has done so.
///
/// # Errors
/// If the kernel refuses the program (with the verifier's log), or the object has no such program, which means a build
/// of mixed versions.
pub fn program<'a>(object: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut SchedClassifier> {
    let program = object.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    let program: &mut SchedClassifier = program.try_into()?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("the kernel refuses the program {name}"))?;
    }
    Ok(program)
}
