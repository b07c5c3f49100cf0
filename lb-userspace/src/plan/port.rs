//! The plan of one service port.

use std::collections::BTreeSet;

use lb_common::{Active, Endpoint, FrontendKind, ServiceRecord, Slot, SlotRange, names};

use super::{Hold, Planner, Region};
use crate::desired::DesiredPort;
use crate::objects::name::ServicePortName;
use crate::tables::op::Op;

impl Planner {
    /// Plans everything or nothing, except for frontends that move to an existing service: they change owner at once.
    pub(super) fn plan_port(
        &mut self,
        name: &ServicePortName,
        port: &DesiredPort,
        draft: &mut Vec<Op>,
    ) -> Result<(), Hold> {
        self.check_frontends(port)?;
        let known = self.owners.service(name);
        if let Some(service) = known {
            if !self.owners.is_damaged(service) {
                // While the record in force admits every client, load balancer addresses wait for the record that
                // restricts them.
                let guards = |flags: u32| flags & ServiceRecord::SOURCE_RANGES != 0;
                let is_open = guards(flags(port)) && !guards(self.tables.record(service).flags);
                self.move_frontends(service, port, draft, |kind| {
                    !is_open || kind != FrontendKind::LoadBalancer
                });
            }
            if !self.is_changed(service, port) {
                self.check_backends(Some(service), port)?;
                self.check_source_ranges(Some(service), port)?;
                self.add_backends(service, name, port, draft);
                self.settle_backends(service, port, draft);
                self.settle_source_ranges(service, port, draft);
                return Ok(());
            }
            if self.settling.contains_key(&service) {
                return Err(Hold::Grace);
            }
        }
        self.check_backends(known, port)?;
        self.check_source_ranges(known, port)?;
        if known.is_none() && self.service_ids.available() == 0 {
            return Err(self.full(names::SERVICES, self.service_ids.has_pending()));
        }
        let region = self.region_for(known, port)?;
        let service = match known {
            Some(service) => service,
            None => self.add_service(name, draft)?,
        };
        self.add_backends(service, name, port, draft);
        self.change_record(service, port, region, draft);
        self.move_frontends(service, port, draft, |_| true);
        if known.is_some() {
            self.settle_backends(service, port, draft);
        }
        self.settle_source_ranges(service, port, draft);
        Ok(())
    }

    /// Keeps the service id of a port that was renamed but kept a frontend, so that its connections continue. `wanted`
    /// is sorted by name.
    pub(super) fn rename(
        &mut self,
        name: &ServicePortName,
        wanted: &[(ServicePortName, DesiredPort)],
        draft: &mut Vec<Op>,
    ) {
        let Some(service) = self.owners.service(name) else { return };
        let first = wanted.partition_point(|(other, _)| of_service(other) < of_service(name));
        let mut siblings =
            wanted[first..].iter().take_while(|(other, _)| of_service(other) == of_service(name));
        let heir = siblings.find(|(other, port)| {
            (other.proto, other.family) == (name.proto, name.family)
                && self.owners.service(other).is_none()
                && self.owners.frontends(service).any(|key| port.frontends.contains_key(&key))
        });
        let Some((heir, _)) = heir else { return };
        self.owners.rename(name, heir.clone());
        self.push(draft, Op::WriteName { id: service, name: Box::new(heir.to_table()) });
    }

    /// Removes a service: first its frontends, then what they referred to.
    pub(super) fn remove_service(&mut self, service: u32, draft: &mut Vec<Op>) {
        let name = self.tables.names.get(&service);
        let is_named = name.is_some();
        let owned = self.owners.remove(service, name.and_then(|n| ServicePortName::from_table(n)).as_ref());
        for key in owned.frontends {
            self.push(draft, Op::DeleteFrontend { key });
        }
        for id in owned.backends {
            self.retire(id, draft);
        }
        if let Some(region) = owned.region {
            self.regions.release(region, self.batch);
        }
        self.drop_source_ranges(service, &BTreeSet::new(), draft);
        if is_named {
            self.push(draft, Op::DeleteName { id: service });
        }
        self.settling.remove(&service);
        self.service_ids.release(service, self.batch);
    }

    /// Removes what a damaged table holds and no service owns.
    pub(super) fn remove_strays(&mut self, draft: &mut Vec<Op>) {
        for service in std::mem::take(&mut self.owners.nameless) {
            self.remove_service(service, draft);
        }
        for id in std::mem::take(&mut self.owners.strays) {
            self.retire(id, draft);
        }
        let nobodys: Vec<u32> = self
            .tables
            .source_ranges
            .keys()
            .filter(|id| !self.tables.names.contains_key(id))
            .copied()
            .collect();
        for service in nobodys {
            self.drop_source_ranges(service, &BTreeSet::new(), draft);
        }
    }

    pub(super) fn full(&self, table: &'static str, pending: bool) -> Hold {
        if pending { Hold::Grace } else { Hold::Full(table) }
    }

    /// Whether the record in force, or one of the slots to which it refers, has to change.
    fn is_changed(&self, service: u32, port: &DesiredPort) -> bool {
        if self.owners.is_damaged(service) {
            return true;
        }
        let record = self.tables.record(service);
        record.flags != flags(port)
            || record.affinity_timeout != port.affinity_timeout
            || record.algorithm != port.algorithm as u8
            || !self.holds(service, record.cluster, &port.cluster)
            || !self.holds(service, record.local, &port.local)
    }

    /// Whether these slots refer to these endpoints, in order.
    fn holds(&self, service: u32, range: SlotRange, set: &BTreeSet<Endpoint>) -> bool {
        let Some(slots) = self.tables.slots_of(range).filter(|slots| slots.len() == set.len()) else {
            return false;
        };
        slots.iter().zip(set).all(|(slot, endpoint)| {
            self.owners.backend(service, endpoint) == Some(slot.backend)
                && self.tables.backend_of(*slot).is_some()
        })
    }

    /// A region for both sets: the one in use if its slots stay as they are, otherwise a new one; `None` if both sets
    /// are empty.
    fn region_for(&mut self, service: Option<u32>, port: &DesiredPort) -> Result<Option<Region>, Hold> {
        let total = port.cluster.len() + port.local.len();
        if total == 0 {
            return Ok(None);
        }
        if let Some(service) = service {
            let record = self.tables.record(service);
            if let (false, Some(region)) = (self.owners.is_damaged(service), self.owners.region(service))
                && self.holds(service, record.cluster, &port.cluster)
                && self.holds(service, record.local, &port.local)
            {
                return Ok(Some(region));
            }
        }
        let len = u32::try_from(total).map_err(|_| Hold::Full(names::SLOTS))?;
        match self.regions.take(len) {
            Some(region) => Ok(Some(region)),
            None => Err(self.full(names::SLOTS, self.regions.has_pending())),
        }
    }

    fn add_service(&mut self, name: &ServicePortName, draft: &mut Vec<Op>) -> Result<u32, Hold> {
        let service = self.service_ids.take().ok_or(Hold::Full(names::SERVICES))?;
        self.owners.insert(name.clone(), service);
        self.push(draft, Op::WriteName { id: service, name: Box::new(name.to_table()) });
        Ok(service)
    }

    fn change_record(
        &mut self,
        service: u32,
        port: &DesiredPort,
        region: Option<Region>,
        draft: &mut Vec<Op>,
    ) {
        let before = self.owners.region(service);
        if let Some(region) = region.filter(|region| before != Some(*region)) {
            let slots = self.slots(service, port.cluster.iter().chain(&port.local));
            self.push(draft, Op::WriteSlots { offset: region.offset, slots });
        }
        let offset = region.map_or(0, |region| region.offset);
        // The region has room for both sets, so that their lengths fit in 32 bits.
        let (cluster, local) = (port.cluster.len() as u32, port.local.len() as u32);
        let record = ServiceRecord {
            cluster: SlotRange { offset, len: cluster },
            local: SlotRange { offset: offset + cluster, len: local },
            flags: flags(port),
            affinity_timeout: port.affinity_timeout,
            algorithm: port.algorithm as u8,
            pad: [0; 7],
        };
        let active = Active(self.tables.services.get(&service).map_or(0, |s| s.active)).flipped();
        let index = active.index() as u8;
        self.push(draft, Op::WriteRecord { service, index, record });
        self.push(draft, Op::Flip { service, active: active.0 });
        self.settling.insert(service, self.batch);
        self.owners.set_region(service, region);
        if let Some(old) = before.filter(|old| Some(*old) != region) {
            self.regions.release(old, self.batch);
        }
    }

    fn slots<'a>(&self, service: u32, set: impl Iterator<Item = &'a Endpoint>) -> Vec<Slot> {
        let ids = set.filter_map(|endpoint| self.owners.backend(service, endpoint));
        ids.map(|id| Slot {
            backend: id,
            generation: self.tables.backends.get(&id).map_or(0, |backend| backend.generation),
        })
        .collect()
    }
}

fn of_service(name: &ServicePortName) -> (&str, &str) {
    (&name.namespace, &name.name)
}

fn flags(port: &DesiredPort) -> u32 {
    let ranges = if port.source_ranges.is_empty() { 0 } else { ServiceRecord::SOURCE_RANGES };
    port.flags | ranges
}
