//! The pinned maps, opened and checked. The commands use them without an agent.

use std::io;

use anyhow::{Context, bail};
use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map, MapData, MapInfo, MapType, PerCpuArray};
use lb_common::{
    Addr, Affinity, AffinityKey, Backend, COARSE_FIRST, COARSE_WORDS, COUNTERS, Counter, Flow, FlowKey,
    Frontend, FrontendKey, INTEREST_WORDS, Service, ServiceName, Slot, SourceClient, Traffic, capacity,
    names,
};

use super::pins::{Pins, Set};
use super::sys::{self, Mapped};

/// What a map must look like. The kernel hands out a pin of any shape under the right name.
struct Shape {
    name: &'static str,
    map_type: MapType,
    key: usize,
    value: usize,
    entries: usize,
}

const fn shape<K, V>(name: &'static str, map_type: MapType, entries: usize) -> Shape {
    Shape { name, map_type, key: size_of::<K>(), value: size_of::<V>(), entries }
}

const SHAPES: [Shape; names::MAPS.len()] = [
    shape::<u32, u64>(names::INTEREST, MapType::Array, INTEREST_WORDS),
    shape::<u32, u64>(names::INTEREST_COARSE, MapType::Array, COARSE_WORDS),
    shape::<FrontendKey, Frontend>(names::FRONTENDS, MapType::Hash, capacity::FRONTENDS),
    shape::<Addr, u32>(names::LOCAL_ADDRS, MapType::Hash, capacity::LOCAL_ADDRS),
    shape::<Key<Addr>, u32>(names::SERVICE_RANGES, MapType::LpmTrie, capacity::SERVICE_RANGES),
    shape::<Key<SourceClient>, u32>(names::SOURCE_RANGES, MapType::LpmTrie, capacity::SOURCE_RANGES),
    shape::<AffinityKey, Affinity>(names::AFFINITY, MapType::LruHash, capacity::AFFINITY),
    shape::<u32, Service>(names::SERVICES, MapType::Array, capacity::SERVICES),
    shape::<u32, ServiceName>(names::NAMES, MapType::Hash, capacity::SERVICES),
    shape::<u32, Slot>(names::SLOTS, MapType::Array, capacity::SLOTS),
    shape::<u32, Backend>(names::BACKENDS, MapType::Array, capacity::BACKENDS),
    shape::<FlowKey, Flow>(names::FLOWS, MapType::Hash, capacity::FLOWS),
    shape::<FlowKey, Flow>(names::FLOWS_SYN, MapType::LruHash, capacity::FLOWS_UNASSURED),
    shape::<FlowKey, Flow>(names::FLOWS_UDP, MapType::LruHash, capacity::FLOWS_UNASSURED),
    shape::<u32, u64>(names::COUNTERS, MapType::PerCpuArray, COUNTERS),
    shape::<u32, Traffic>(names::SERVICE_STATS, MapType::PerCpuArray, capacity::SERVICES),
    shape::<u32, Traffic>(names::BACKEND_STATS, MapType::PerCpuArray, capacity::BACKENDS),
];

/// Compares every pin that exists with what this program expects.
///
/// # Errors
/// Names the first map of another shape, and what to do.
pub fn check_shapes(tables: &Set) -> anyhow::Result<()> {
    for expected in &SHAPES {
        let path = tables.map(expected.name);
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
        let found = (info.map_type()?, info.key_size() as usize, info.value_size() as usize);
        let wanted = (expected.map_type, expected.key, expected.value);
        if found != wanted || info.max_entries() as usize != expected.entries {
            bail!(
                "{} is of another shape (type, key and value bytes {found:?}, {} entries) than this lb wants \
                 ({wanted:?}, {}): it is not of this version. `lb cleanup` removes all of it; connections that \
                 go through it end",
                path.display(),
                info.max_entries(),
                expected.entries
            );
        }
    }
    Ok(())
}

/// Typed handles of all pinned maps.
pub struct Maps {
    pub interest: Bitmaps,
    pub frontends: HashMap<MapData, FrontendKey, Frontend>,
    pub local_addrs: HashMap<MapData, Addr, u32>,
    pub service_ranges: LpmTrie<MapData, Addr, u32>,
    pub source_ranges: LpmTrie<MapData, SourceClient, u32>,
    pub affinity: HashMap<MapData, AffinityKey, Affinity>,
    pub services: Mapped<Service>,
    pub names: HashMap<MapData, u32, ServiceName>,
    pub slots: Mapped<Slot>,
    pub backends: Mapped<Backend>,
    /// Half-open TCP, unanswered others, assured: a flow that moves while they are read one after the other
    /// moves to the last, and so is seen.
    pub flows: [MapData; 3],
    counters: PerCpuArray<MapData, u64>,
    service_stats: PerCpuArray<MapData, Traffic>,
    backend_stats: PerCpuArray<MapData, Traffic>,
}

impl Maps {
    /// Opens the pinned maps; `writable` for the agent alone.
    ///
    /// # Errors
    /// Where there are none, one has another shape, or root is needed.
    pub fn open(pins: &Pins, writable: bool) -> anyhow::Result<Self> {
        pins.require()?;
        check_shapes(&pins.tables())?;
        let data = |name: &str| {
            let path = pins.map(name);
            MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))
        };
        Ok(Self {
            interest: Bitmaps {
                fine: mapped(&data(names::INTEREST)?, writable)?,
                coarse: mapped(&data(names::INTEREST_COARSE)?, writable)?,
            },
            frontends: Map::HashMap(data(names::FRONTENDS)?).try_into()?,
            local_addrs: Map::HashMap(data(names::LOCAL_ADDRS)?).try_into()?,
            service_ranges: Map::LpmTrie(data(names::SERVICE_RANGES)?).try_into()?,
            source_ranges: Map::LpmTrie(data(names::SOURCE_RANGES)?).try_into()?,
            affinity: Map::LruHashMap(data(names::AFFINITY)?).try_into()?,
            services: mapped(&data(names::SERVICES)?, writable)?,
            names: Map::HashMap(data(names::NAMES)?).try_into()?,
            slots: mapped(&data(names::SLOTS)?, writable)?,
            backends: mapped(&data(names::BACKENDS)?, writable)?,
            flows: [data(names::FLOWS_SYN)?, data(names::FLOWS_UDP)?, data(names::FLOWS)?],
            counters: Map::PerCpuArray(data(names::COUNTERS)?).try_into()?,
            service_stats: Map::PerCpuArray(data(names::SERVICE_STATS)?).try_into()?,
            backend_stats: Map::PerCpuArray(data(names::BACKEND_STATS)?).try_into()?,
        })
    }

    /// The sum of a counter over all CPUs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn counter(&self, counter: Counter) -> anyhow::Result<u64> {
        Ok(self.counters.get(&(counter as u32), 0)?.iter().sum())
    }

    /// Traffic of a service, summed over all CPUs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn service_traffic(&self, service: u32) -> anyhow::Result<Traffic> {
        sum(&self.service_stats, service)
    }

    /// Traffic of a backend, summed over all CPUs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn backend_traffic(&self, backend: u32) -> anyhow::Result<Traffic> {
        sum(&self.backend_stats, backend)
    }

    /// A fresh use of the id starts at zero.
    pub(super) fn clear_service_traffic(&mut self, service: u32) -> anyhow::Result<()> {
        clear(&mut self.service_stats, service)
    }

    pub(super) fn clear_backend_traffic(&mut self, backend: u32) -> anyhow::Result<()> {
        clear(&mut self.backend_stats, backend)
    }

    /// Every entry of the flow table, of all its parts; `part` is the index into [`Maps::flows`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn for_each_flow(&self, mut visit: impl FnMut(usize, &FlowKey, &Flow)) -> io::Result<()> {
        use std::os::fd::AsFd;
        for (part, map) in self.flows.iter().enumerate() {
            sys::for_each(map.fd().as_fd(), Flow::BLANK, |key, flow| visit(part, key, flow))?;
        }
        Ok(())
    }
}

/// `interest` and `interest_coarse`, whose bits are numbered in one row.
pub struct Bitmaps {
    fine: Mapped<u64>,
    coarse: Mapped<u64>,
}

impl Bitmaps {
    /// Sets or clears one bit, beside a packet path that sets others.
    pub fn store(&self, bit: u32, on: bool) {
        let (map, at) = match bit.checked_sub(COARSE_FIRST) {
            Some(at) => (&self.coarse, at),
            None => (&self.fine, bit),
        };
        sys::store_bit(map.word64(at >> 6, 0), at & 63, on);
    }

    /// The words of both, one map behind the other.
    pub fn words(&self) -> Vec<u64> {
        let words = |map: &Mapped<u64>| (0..map.entries()).map(|index| map.get(index)).collect::<Vec<_>>();
        [words(&self.fine), words(&self.coarse)].concat()
    }
}

fn mapped<T: Pod>(map: &MapData, writable: bool) -> anyhow::Result<Mapped<T>> {
    Mapped::new(map, writable)
}

fn sum(stats: &PerCpuArray<MapData, Traffic>, index: u32) -> anyhow::Result<Traffic> {
    Ok(stats.get(&index, 0)?.iter().fold(Traffic::default(), |sum, cpu| sum + *cpu))
}

fn clear(stats: &mut PerCpuArray<MapData, Traffic>, index: u32) -> anyhow::Result<()> {
    let zero = vec![Traffic::default(); super::possible_cpus()?];
    Ok(stats.set(index, aya::maps::PerCpuValues::try_from(zero)?, 0)?)
}

/// Name and number of entries of each map.
pub fn entries() -> impl Iterator<Item = (&'static str, usize)> {
    SHAPES.iter().map(|shape| (shape.name, shape.entries))
}

/// Memory of the kernel for all maps, in bytes: at once, and when every hash is full.
pub fn memory(cpus: usize) -> (u64, u64) {
    /// Of the kernel's `struct htab_elem`; key and value follow, in steps of eight bytes.
    const ELEMENT: usize = 48;
    /// Of its `struct bucket`, as many as entries.
    const BUCKET: usize = 16;
    let (mut at_once, mut full) = (0, 0);
    for shape in &SHAPES {
        let value = shape.value.next_multiple_of(8);
        let element = ELEMENT + shape.key.next_multiple_of(8) + value;
        let (fixed, by_use) = match shape.map_type {
            // A pointer to each CPU's values.
            MapType::PerCpuArray => (8 + value * cpus, 0),
            MapType::LruHash => (BUCKET + element, 0),
            MapType::Hash => (BUCKET, element),
            _ => (value, 0),
        };
        at_once += shape.entries * fixed;
        full += shape.entries * (fixed + by_use);
    }
    (at_once as u64, full as u64)
}
