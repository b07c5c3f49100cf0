//! Makes a planner from tables that a previous agent wrote, completely or up to the middle of a plan.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{Endpoint, Prefix, RangeRule};

use super::ids::{Batch, Ids};
use super::owners::Owners;
use super::regions::{Region, Regions};
use super::{Limits, Planner};
use crate::desired::ServiceRanges;
use crate::objects::name::ServicePortName;
use crate::objects::notice::Board;
use crate::tables::Tables;

impl Planner {
    /// Starts from what the tables hold. Everything that is not in use, and every record that is not in force, is
    /// pending: a packet may still read what the previous agent released last.
    pub fn restore(tables: Tables, limits: Limits) -> Self {
        restored(tables, limits, Batch(0))
    }

    /// Starts again from the tables as they are now, after a plan was carried out only in part. Unlike a new planner,
    /// this one distinguishes batches that were closed earlier from those to come: a grace period that is under way may
    /// have begun before the last release, and proves nothing about that release.
    pub fn resume(&mut self, tables: Tables) {
        *self = restored(tables, self.limits, Batch(self.batch.0 + 1));
    }
}

/// Everything that is pending belongs to `batch`.
fn restored(tables: Tables, limits: Limits, batch: Batch) -> Planner {
    let mut owners = Owners::default();
    name_services(&tables, &mut owners);
    let named: BTreeMap<u32, ServicePortName> =
        owners.names().filter_map(|name| Some((owners.service(name)?, name.clone()))).collect();
    for (key, frontend) in &tables.frontends {
        owners.add_frontend(frontend.service, *key);
        if !named.contains_key(&frontend.service) {
            owners.nameless.insert(frontend.service);
        }
    }
    let used_backends = own_backends(&tables, &named, &mut owners);
    let used_regions = own_regions(&tables, &named, limits.slots, &mut owners);
    let used_services: BTreeSet<u32> = named.keys().chain(&owners.nameless).copied().collect();
    let touched_slots = u32::try_from(tables.slots.len()).unwrap_or(u32::MAX);
    Planner {
        service_ids: Ids::restore(limits.services, &used_services, tables.services.keys().copied(), batch),
        backend_ids: Ids::restore(limits.backends, &used_backends, tables.backends.keys().copied(), batch),
        regions: Regions::restore(limits.slots, &used_regions, touched_slots, batch),
        settling: tables.services.keys().map(|service| (*service, batch)).collect(),
        service_ranges: service_ranges(&tables.ranges),
        tables,
        owners,
        limits,
        batch,
        waiting: BTreeMap::new(),
        starved: BTreeMap::new(),
        board: Board::default(),
    }
}

/// Registers the names of services. An id is nameless if its entry cannot be read as a name, or if another id has that
/// name. A service without a frontend is nameless, too: its creation or removal was interrupted, and its record may be
/// that of an earlier use of the id.
fn name_services(tables: &Tables, owners: &mut Owners) {
    let reached: BTreeSet<u32> = tables.frontends.values().map(|frontend| frontend.service).collect();
    for (id, entry) in &tables.names {
        match ServicePortName::from_table(entry) {
            Some(name) if reached.contains(id) && owners.service(&name).is_none() => owners.insert(name, *id),
            _ => {
                owners.nameless.insert(*id);
            }
        }
    }
}

/// Returns the ids in use, including those without an owner. If a service has an endpoint twice (its id was assigned
/// again after a failure), it owns the backend to which its slots refer.
fn own_backends(
    tables: &Tables,
    named: &BTreeMap<u32, ServicePortName>,
    owners: &mut Owners,
) -> BTreeSet<u32> {
    let in_force: BTreeSet<u32> = named
        .keys()
        .map(|service| tables.record(*service))
        .flat_map(|record| [record.cluster, record.local])
        .flat_map(|range| tables.slots_of(range).unwrap_or_default())
        .filter(|slot| tables.backend_of(**slot).is_some())
        .map(|slot| slot.backend)
        .collect();
    let used = tables.backends.iter().filter(|(_, b)| !b.is_free());
    let (first, then): (Vec<_>, Vec<_>) = used.partition(|(id, _)| in_force.contains(id));
    for (id, backend) in first.iter().chain(&then) {
        let endpoint = Endpoint::new(backend.addr, backend.port);
        let is_owned = named.get(&backend.service).is_some_and(|name| name.proto as u8 == backend.proto)
            && owners.backend(backend.service, &endpoint).is_none();
        if is_owned {
            owners.add_backend(backend.service, endpoint, **id);
        } else {
            owners.strays.push(**id);
        }
    }
    first.into_iter().chain(then).map(|(id, _)| *id).collect()
}

/// A region belongs to a service if every slot in it refers to one of the service's backends: an id that went out of
/// use in the middle of a plan may have a record that refers to slots which now belong to another service.
fn own_regions(
    tables: &Tables,
    named: &BTreeMap<u32, ServicePortName>,
    capacity: u32,
    owners: &mut Owners,
) -> BTreeSet<Region> {
    let mut used = BTreeSet::new();
    for service in named.keys() {
        match region_of(tables, *service, capacity) {
            Ok(None) => {}
            Ok(Some(region)) if is_apart(&used, region) => {
                used.insert(region);
                owners.set_region(*service, Some(region));
            }
            _ => owners.set_damaged(*service),
        }
    }
    used
}

struct Damaged;

fn region_of(tables: &Tables, service: u32, capacity: u32) -> Result<Option<Region>, Damaged> {
    let record = tables.record(service);
    let total = record.cluster.len.checked_add(record.local.len).ok_or(Damaged)?;
    if total == 0 {
        return Ok(None);
    }
    let follows = record.cluster.offset.checked_add(record.cluster.len) == Some(record.local.offset);
    let region = Region::around(record.cluster.offset, total).filter(|_| follows).ok_or(Damaged)?;
    let end = region.offset.checked_add(region.size()).ok_or(Damaged)?;
    let sets = [record.cluster, record.local].map(|range| tables.slots_of(range));
    let is_own = sets.iter().all(|slots| {
        slots.is_some_and(|slots| {
            slots.iter().all(|slot| tables.backend_of(*slot).is_some_and(|b| b.service == service))
        })
    });
    if end <= capacity && is_own { Ok(Some(region)) } else { Err(Damaged) }
}

fn is_apart(used: &BTreeSet<Region>, region: Region) -> bool {
    let before = used.range(..=region).next_back();
    let after = used.range(region..).next();
    before.is_none_or(|other| other.range().end <= region.offset)
        && after.is_none_or(|other| region.range().end <= other.offset)
}

/// The ServiceCIDRs and the addresses of other proxies that the tables record in `ranges`.
fn service_ranges(ranges: &BTreeMap<Prefix, RangeRule>) -> ServiceRanges {
    let of = |rule| ranges.iter().filter(move |(_, r)| **r == rule).map(|(prefix, _)| *prefix);
    ServiceRanges {
        cidrs: of(RangeRule::Unallocated).collect(),
        others: of(RangeRule::Others).map(|prefix| prefix.addr).collect(),
    }
}
