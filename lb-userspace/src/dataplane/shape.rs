//! The shape of the tables: their maps, with layout and size.

use std::fmt;
use std::path::Path;

use anyhow::{Context, anyhow};
use aya::maps::lpm_trie::Key;
use aya::maps::{MapInfo, MapType};
use lb_common::{
    Addr, Affinity, AffinityKey, Backend, BridgeHost, COARSE_WORDS, COUNTERS, Flow, FlowKey, Frontend,
    FrontendKey, INTEREST_WORDS, LIVE_COUNTS, RING_PART, RING_SHARDS, Ring, RingSlot, Service, ServiceName,
    Slot, Socket, SocketKey, SourceClient, Traffic, capacity, names,
};

/// Sizes that may be changed at each start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Entries of `flows`, two for each flow.
    pub flows: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { flows: capacity::FLOWS as u32 }
    }
}

impl Sizes {
    /// The least [`Sizes::flows`].
    pub const LEAST_FLOWS: u32 = 128;

    /// Slots of each ring: a power of two.
    pub const fn ring(self) -> u32 {
        let part = self.flows / 2 / RING_PART as u32;
        if part == 0 { 1 } else { 1 << part.ilog2() }
    }

    /// Shards of each ring, on a machine of this many CPUs: a power of two.
    pub fn shards(self, cpus: usize) -> u32 {
        let cpus = u32::try_from(cpus.next_power_of_two()).unwrap_or(u32::MAX);
        cpus.min(RING_SHARDS as u32).min(self.ring())
    }

    /// The number of live flows for which there is room beside the rings. A part stays free: CPUs count in steps, and
    /// flows of an earlier table have no slot in a ring.
    pub const fn live(self) -> u32 {
        let flows = self.flows / 2;
        flows.saturating_sub(flows / 32 + Ring::COUNT as u32 * self.ring())
    }
}

/// Kind and size of a map, and the bytes of its keys and values.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Shape {
    pub map_type: MapType,
    pub key: usize,
    pub value: usize,
    pub entries: u32,
}

impl Shape {
    const fn of<K, V>(map_type: MapType, entries: usize) -> Self {
        Self { map_type, key: size_of::<K>(), value: size_of::<V>(), entries: entries as u32 }
    }

    /// The shape of a pinned map; `None` if nothing is pinned.
    ///
    /// # Errors
    /// If the map cannot be opened.
    pub fn pinned(path: &Path) -> anyhow::Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let info = MapInfo::from_pin(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Some(Self {
            map_type: info.map_type()?,
            key: info.key_size() as usize,
            value: info.value_size() as usize,
            entries: info.max_entries(),
        }))
    }

    /// Whether everything except the number of entries is the same. Equal sizes do not prove an equal meaning; the
    /// schema does.
    pub fn has_layout_of(&self, other: &Self) -> bool {
        Self { entries: 0, ..*self } == Self { entries: 0, ..*other }
    }

    /// Bytes of a copy of one entry's value. A per-CPU map has one value for each CPU, each padded to eight bytes.
    ///
    /// # Errors
    /// If the number of CPUs cannot be read.
    pub fn value_bytes(&self) -> anyhow::Result<usize> {
        Ok(match self.map_type {
            MapType::PerCpuArray | MapType::PerCpuHash | MapType::LruPerCpuHash => {
                self.value.next_multiple_of(8) * possible_cpus()?
            }
            _ => self.value,
        })
    }

    /// Whether the map is an array: every index has a value, and 0 means none.
    pub fn is_array(&self) -> bool {
        matches!(self.map_type, MapType::Array | MapType::PerCpuArray)
    }
}

/// The error for a pinned map that this version cannot use. It says what to do.
pub fn misfit(pin: &Path, found: &Shape, wanted: &Shape) -> anyhow::Error {
    anyhow!(
        "{} is of another shape ({found}) than this lb expects ({wanted}): another version made it. `lb cleanup` \
         removes all tables, which ends the connections through them",
        pin.display()
    )
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { map_type, key, value, entries } = self;
        write!(f, "{map_type:?} of {entries}, keys of {key} bytes, values of {value}")
    }
}

/// The current shapes of the maps with the names in `wanted`.
///
/// # Errors
/// If a map is missing or cannot be opened.
pub fn of(
    tables: &super::pins::Set,
    wanted: &[(&'static str, Shape)],
) -> anyhow::Result<Vec<(&'static str, Shape)>> {
    let shape = |name| Ok((name, Shape::pinned(&tables.map(name))?.with_context(|| format!("no {name}"))?));
    wanted.iter().map(|(name, _)| shape(*name)).collect()
}

/// The maps of this version.
pub fn wanted(sizes: Sizes) -> [(&'static str, Shape); names::MAPS.len()] {
    use MapType::{Array, Hash, LpmTrie, LruHash, PerCpuArray};
    [
        (names::INTEREST, Shape::of::<u32, u64>(Array, INTEREST_WORDS)),
        (names::INTEREST_COARSE, Shape::of::<u32, u64>(Array, COARSE_WORDS)),
        (names::FRONTENDS, Shape::of::<FrontendKey, Frontend>(Hash, capacity::FRONTENDS)),
        (names::LOCAL_ADDRS, Shape::of::<Addr, u32>(Hash, capacity::LOCAL_ADDRS)),
        (names::SERVICE_RANGES, Shape::of::<Key<Addr>, u32>(LpmTrie, capacity::SERVICE_RANGES)),
        (names::SOURCE_RANGES, Shape::of::<Key<SourceClient>, u32>(LpmTrie, capacity::SOURCE_RANGES)),
        (names::AFFINITY, Shape::of::<AffinityKey, Affinity>(LruHash, capacity::AFFINITY)),
        (names::SOCKETS, Shape::of::<SocketKey, Socket>(LruHash, capacity::SOCKETS)),
        (names::SERVICES, Shape::of::<u32, Service>(Array, capacity::SERVICES)),
        (names::NAMES, Shape::of::<u32, ServiceName>(Hash, capacity::SERVICES)),
        (names::SLOTS, Shape::of::<u32, Slot>(Array, capacity::SLOTS)),
        (names::BACKENDS, Shape::of::<u32, Backend>(Array, capacity::BACKENDS)),
        (names::FLOWS, Shape::of::<FlowKey, Flow>(Hash, sizes.flows as usize)),
        (names::FLOWS_LIVE, Shape::of::<u32, u64>(Array, LIVE_COUNTS)),
        (names::RINGS, Shape::of::<u32, RingSlot>(Array, Ring::COUNT * sizes.ring() as usize)),
        (names::BRIDGE_PORTS, Shape::of::<u32, u32>(Hash, capacity::BRIDGE_PORTS)),
        (names::BRIDGE_HOSTS, Shape::of::<Addr, BridgeHost>(LruHash, capacity::BRIDGE_HOSTS)),
        (names::COUNTERS, Shape::of::<u32, u64>(PerCpuArray, COUNTERS)),
        (names::SERVICE_STATS, Shape::of::<u32, Traffic>(PerCpuArray, capacity::SERVICES)),
        (names::BACKEND_STATS, Shape::of::<u32, Traffic>(PerCpuArray, capacity::BACKENDS)),
    ]
}

/// The number of CPUs for which the kernel keeps values.
///
/// # Errors
/// If /sys does not list them.
pub fn possible_cpus() -> anyhow::Result<usize> {
    aya::util::nr_cpus().map_err(|(file, error)| anyhow::anyhow!("{file}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_and_live_flows_fill_the_table() {
        let usual = Sizes::default();
        assert_eq!((usual.ring(), usual.live()), (32_768, 409_600));
        assert_eq!(usual.ring() as usize * Ring::COUNT, capacity::RINGS);
        assert_eq!([1, 2, 3, 8, 200].map(|cpus| usual.shards(cpus)), [1, 2, 4, 8, 8]);
        let least = Sizes { flows: Sizes::LEAST_FLOWS };
        assert_eq!((least.ring(), least.live(), least.shards(8)), (4, 50, 4));
    }
}
