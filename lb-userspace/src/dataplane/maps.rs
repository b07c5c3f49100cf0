//! The pinned maps, opened and checked. Commands use them without an agent.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::Context;
use aya::Pod;
use aya::maps::{HashMap, LpmTrie, Map, MapData, MapType, PerCpuArray};
use lb_common::{
    Addr, Affinity, AffinityKey, Backend, COARSE_FIRST, Counter, Flow, FlowKey, Frontend, FrontendKey,
    Service, ServiceName, Slot, Socket, SocketKey, SourceClient, Traffic, names,
};

use super::pins::{Pins, Set};
use super::shape::{self, Shape, Sizes};
use super::sys::entries;
use super::sys::mapped::{Mapped, store_bit};

/// Typed handles of all pinned maps.
pub struct Maps {
    pub interest: Bitmaps,
    pub frontends: HashMap<MapData, FrontendKey, Frontend>,
    pub local_addrs: HashMap<MapData, Addr, u32>,
    pub service_ranges: LpmTrie<MapData, Addr, u32>,
    pub source_ranges: LpmTrie<MapData, SourceClient, u32>,
    pub affinity: HashMap<MapData, AffinityKey, Affinity>,
    pub services: Arc<Mapped<Service>>,
    pub names: HashMap<MapData, u32, ServiceName>,
    pub slots: Arc<Mapped<Slot>>,
    pub backends: Arc<Mapped<Backend>>,
    pub flows: MapData,
    /// The number of live flows, and of those of each group of clients, which the packet path counts, too.
    flows_live: Arc<Mapped<u64>>,
    counters: PerCpuArray<MapData, u64>,
    service_stats: PerCpuArray<MapData, Traffic>,
    backend_stats: PerCpuArray<MapData, Traffic>,
}

impl Maps {
    /// Opens the pinned maps, `writable` only for the agent.
    ///
    /// # Errors
    /// If there are no maps, a map has another shape, or root is needed.
    pub fn open(pins: &Pins, writable: bool) -> anyhow::Result<Self> {
        pins.require()?;
        check(&pins.tables())?;
        let arrays = Arrays {
            interest: Bitmaps {
                fine: mapped(pins, names::INTEREST, writable)?,
                coarse: mapped(pins, names::INTEREST_COARSE, writable)?,
            },
            flows_live: mapped(pins, names::FLOWS_LIVE, writable)?,
            services: mapped(pins, names::SERVICES, writable)?,
            slots: mapped(pins, names::SLOTS, writable)?,
            backends: mapped(pins, names::BACKENDS, writable)?,
        };
        Self::with(pins, arrays)
    }

    /// Opens the same maps for another thread. Arrays stay mapped once: the kernel maps every page of an array, and
    /// each mapping counts as memory of the process.
    ///
    /// # Errors
    /// If the kernel cannot open a map.
    pub fn again(&self, pins: &Pins) -> anyhow::Result<Self> {
        let Self { interest, services, slots, backends, flows_live, .. } = self;
        let arrays = Arrays {
            interest: interest.clone(),
            flows_live: flows_live.clone(),
            services: services.clone(),
            slots: slots.clone(),
            backends: backends.clone(),
        };
        Self::with(pins, arrays)
    }

    fn with(pins: &Pins, arrays: Arrays) -> anyhow::Result<Self> {
        let data = |name: &str| data(pins, name);
        let Arrays { interest, flows_live, services, slots, backends } = arrays;
        Ok(Self {
            interest,
            frontends: Map::HashMap(data(names::FRONTENDS)?).try_into()?,
            local_addrs: Map::HashMap(data(names::LOCAL_ADDRS)?).try_into()?,
            service_ranges: Map::LpmTrie(data(names::SERVICE_RANGES)?).try_into()?,
            source_ranges: Map::LpmTrie(data(names::SOURCE_RANGES)?).try_into()?,
            affinity: Map::LruHashMap(data(names::AFFINITY)?).try_into()?,
            services,
            names: Map::HashMap(data(names::NAMES)?).try_into()?,
            slots,
            backends,
            flows: data(names::FLOWS)?,
            flows_live,
            counters: Map::PerCpuArray(data(names::COUNTERS)?).try_into()?,
            service_stats: Map::PerCpuArray(data(names::SERVICE_STATS)?).try_into()?,
            backend_stats: Map::PerCpuArray(data(names::BACKEND_STATS)?).try_into()?,
        })
    }

    /// The size of the flow table.
    ///
    /// # Errors
    /// If the kernel does not describe the map.
    pub fn sizes(&self) -> anyhow::Result<Sizes> {
        Ok(Sizes { flows: self.flows.info()?.max_entries() })
    }

    /// The numbers of live flows by the packet path's own count, of which the first lags a little behind.
    pub fn live(&self) -> Vec<i64> {
        (0..self.flows_live.entries()).map(|i| self.flows_live.word64(i, 0).load(Relaxed) as i64).collect()
    }

    /// Corrects one of these numbers.
    pub(super) fn correct_live(&self, index: u32, by: i64) {
        if by != 0 {
            self.flows_live.word64(index, 0).fetch_add(by as u64, Relaxed);
        }
    }

    /// The sum of a counter over all CPUs.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn counter(&self, counter: Counter) -> anyhow::Result<u64> {
        Ok(self.counters.get(&(counter as u32), 0)?.iter().sum())
    }

    /// Traffic of a service, summed over all CPUs.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn service_traffic(&self, service: u32) -> anyhow::Result<Traffic> {
        sum(&self.service_stats, service)
    }

    /// Traffic of a backend, summed over all CPUs.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn backend_traffic(&self, backend: u32) -> anyhow::Result<Traffic> {
        sum(&self.backend_stats, backend)
    }

    /// Sets the traffic of a service to zero, because its id is being reused.
    pub(super) fn clear_service_traffic(&mut self, service: u32) -> anyhow::Result<()> {
        clear(&mut self.service_stats, service)
    }

    /// Sets the traffic of a backend to zero, because its id is being reused.
    pub(super) fn clear_backend_traffic(&mut self, backend: u32) -> anyhow::Result<()> {
        clear(&mut self.backend_stats, backend)
    }

    /// Visits every entry of the flow table.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn for_each_flow(&self, visit: impl FnMut(&FlowKey, &Flow)) -> io::Result<()> {
        use std::os::fd::AsFd;
        entries::for_each(self.flows.fd().as_fd(), visit)
    }
}

/// The maps that are mapped into memory.
struct Arrays {
    interest: Bitmaps,
    flows_live: Arc<Mapped<u64>>,
    services: Arc<Mapped<Service>>,
    slots: Arc<Mapped<Slot>>,
    backends: Arc<Mapped<Backend>>,
}

/// `interest` and `interest_coarse`, whose bits are numbered consecutively.
#[derive(Clone)]
pub struct Bitmaps {
    fine: Arc<Mapped<u64>>,
    coarse: Arc<Mapped<u64>>,
}

impl Bitmaps {
    /// Sets or clears one bit. The packet path may set others at the same time.
    pub fn store(&self, bit: u32, on: bool) {
        let (map, at) = match bit.checked_sub(COARSE_FIRST) {
            Some(at) => (&self.coarse, at),
            None => (&self.fine, bit),
        };
        store_bit(map.word64(at >> 6, 0), at & 63, on);
    }

    /// The words of both maps, those of `interest` first.
    pub fn words(&self) -> Vec<u64> {
        let words = |map: &Mapped<u64>| (0..map.entries()).map(|index| map.get(index)).collect::<Vec<_>>();
        [words(&self.fine), words(&self.coarse)].concat()
    }
}

/// Checks that the pinned maps have the layout that this program reads. Only the agent checks their sizes.
fn check(tables: &Set) -> anyhow::Result<()> {
    for (name, wanted) in shape::wanted(Sizes::default()) {
        let pin = tables.map(name);
        let found = Shape::pinned(&pin)?.with_context(|| format!("{} is missing", pin.display()))?;
        if !found.has_layout_of(&wanted) {
            return Err(shape::misfit(&pin, &found, &wanted));
        }
    }
    Ok(())
}

/// The pinned `sockets`, opened for a thread of its own.
pub struct SocketTable {
    /// The table, to be read in batches.
    data: MapData,
    /// The same table, to remove entries from.
    map: HashMap<MapData, SocketKey, Socket>,
    backends: Arc<Mapped<Backend>>,
}

impl SocketTable {
    /// Opens the table.
    ///
    /// # Errors
    /// If the table does not exist or cannot be opened.
    pub fn open(pins: &Pins, maps: &Maps) -> anyhow::Result<Self> {
        Ok(Self {
            data: data(pins, names::SOCKETS)?,
            map: Map::LruHashMap(data(pins, names::SOCKETS)?).try_into()?,
            backends: Arc::clone(&maps.backends),
        })
    }

    /// Number of entries in use.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn used(&self) -> io::Result<usize> {
        let mut used = 0;
        self.for_each(|_, _| used += 1).map(|()| used)
    }

    fn for_each(&self, visit: impl FnMut(&SocketKey, &Socket)) -> io::Result<()> {
        use std::os::fd::AsFd;
        entries::for_each(self.data.fd().as_fd(), visit)
    }

    /// Visits every entry whose backend is gone, even if another backend has its id by now.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn for_each_orphan(&self, mut visit: impl FnMut(&SocketKey, &Socket)) -> io::Result<()> {
        self.for_each(|key, socket| {
            if self.is_orphan(socket) {
                visit(key, socket);
            }
        })
    }

    fn is_orphan(&self, socket: &Socket) -> bool {
        socket.backend >= self.backends.entries()
            || self.backends.get(socket.backend).generation != socket.generation
    }

    /// Removes an entry whose backend is gone, unless its socket has another backend by now.
    pub fn forget(&mut self, key: &SocketKey) {
        if self.map.get(key, 0).is_ok_and(|socket| self.is_orphan(&socket)) {
            // The entry may be gone already: the map is an LRU.
            let _ = self.map.remove(key);
        }
    }
}

fn data(pins: &Pins, name: &str) -> anyhow::Result<MapData> {
    let path = pins.map(name);
    MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))
}

fn mapped<T: Pod>(pins: &Pins, name: &str, writable: bool) -> anyhow::Result<Arc<Mapped<T>>> {
    Ok(Arc::new(Mapped::new(&data(pins, name)?, writable)?))
}

fn sum(stats: &PerCpuArray<MapData, Traffic>, index: u32) -> anyhow::Result<Traffic> {
    Ok(stats.get(&index, 0)?.iter().fold(Traffic::default(), |sum, cpu| sum + *cpu))
}

fn clear(stats: &mut PerCpuArray<MapData, Traffic>, index: u32) -> anyhow::Result<()> {
    let zero = vec![Traffic::default(); super::shape::possible_cpus()?];
    Ok(stats.set(index, aya::maps::PerCpuValues::try_from(zero)?, 0)?)
}

/// Kernel memory of all maps of these sizes, in bytes: at the start, and when every hash is full.
pub fn memory(cpus: usize, sizes: Sizes) -> (u64, u64) {
    /// Size of the kernel's `struct htab_elem`; key and value follow, each padded to eight bytes.
    const ELEMENT: usize = 48;
    /// Size of the kernel's `struct bucket`; a map has as many as entries.
    const BUCKET: usize = 16;
    let (mut at_once, mut full) = (0, 0);
    for (_, shape) in shape::wanted(sizes) {
        let value = shape.value.next_multiple_of(8);
        let element = ELEMENT + shape.key.next_multiple_of(8) + value;
        let (fixed, by_use) = match shape.map_type {
            // Eight bytes for the pointer to each CPU's values.
            MapType::PerCpuArray => (8 + value * cpus, 0),
            MapType::LruHash => (BUCKET + element, 0),
            MapType::Hash => (BUCKET, element),
            _ => (value, 0),
        };
        let entries = shape.entries as usize;
        at_once += entries * fixed;
        full += entries * (fixed + by_use);
    }
    (at_once as u64, full as u64)
}
