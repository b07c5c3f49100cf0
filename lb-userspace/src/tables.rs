//! The content of the maps, in memory: what a plane holds, and what the planner compares with the desired state.

pub mod interest;
pub mod op;
pub mod plane;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    Active, Addr, Backend, BackendState, Frontend, FrontendKey, Prefix, RangeRule, Service, ServiceName,
    ServiceRecord, Slot, SlotRange, interest_bit, node_bit,
};

use crate::tables::interest::Interest;
use op::Op;

/// Everything that the agent writes. Flows, counters and statistics belong to the packet path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables {
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    /// By service id: every service that was ever written.
    pub services: BTreeMap<u32, Service>,
    /// By service id: the names in use.
    pub names: BTreeMap<u32, Box<ServiceName>>,
    /// By index, up to the last slot that was ever written.
    pub slots: Vec<Slot>,
    /// By backend id: every backend that was ever written. Retired backends stay, in state `Free`, so that their
    /// generations continue.
    pub backends: BTreeMap<u32, Backend>,
    /// The node's addresses on which NodePorts answer.
    pub local_addrs: BTreeSet<Addr>,
    pub ranges: BTreeMap<Prefix, RangeRule>,
    /// By service id; never an empty set.
    pub source_ranges: BTreeMap<u32, BTreeSet<Prefix>>,
    pub interest: Interest,
}

impl Tables {
    /// Carries out one operation. No operation can fail: an absent entry counts as zero, as in a BPF array.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::SetInterest { bit } => self.interest.set(*bit),
            Op::ClearInterest { bit } => self.interest.clear(*bit),
            Op::WriteBackend { id, backend } => {
                self.backends.insert(*id, *backend);
            }
            Op::WriteSlots { offset, slots } => self.write_slots(*offset as usize, slots),
            Op::WriteName { id, name } => {
                self.names.insert(*id, name.clone());
            }
            Op::WriteRecord { service, index, record } => {
                self.service_mut(*service).records[usize::from(index & 1)] = *record;
            }
            Op::Flip { service, active } => self.service_mut(*service).active = *active,
            Op::PutFrontend { key, frontend } => {
                self.frontends.insert(*key, *frontend);
            }
            Op::DeleteFrontend { key } => {
                self.frontends.remove(key);
            }
            Op::SetBackendState { id, state } => self.change_backend(*id, |b| b.state = *state as u8),
            Op::RetireBackend { id, generation } => self.change_backend(*id, |backend| {
                backend.state = BackendState::Free.number();
                backend.generation = *generation;
            }),
            Op::DeleteName { id } => {
                self.names.remove(id);
            }
            Op::PutLocalAddr { addr } => {
                self.local_addrs.insert(*addr);
            }
            Op::DeleteLocalAddr { addr } => {
                self.local_addrs.remove(addr);
            }
            Op::PutRange { prefix, rule } => {
                self.ranges.insert(*prefix, *rule);
            }
            Op::DeleteRange { prefix } => {
                self.ranges.remove(prefix);
            }
            Op::PutSourceRange { service, prefix } => {
                self.source_ranges.entry(*service).or_default().insert(*prefix);
            }
            Op::DeleteSourceRange { service, prefix } => self.delete_source_range(*service, prefix),
            Op::SetBackendSets { id, sets } => self.change_backend(*id, |backend| backend.sets = *sets),
        }
    }

    /// The record in force of a service, as a packet would find it.
    pub fn record(&self, service: u32) -> ServiceRecord {
        self.services
            .get(&service)
            .map_or_else(ServiceRecord::default, |s| s.records[Active(s.active).index()])
    }

    /// The slots of a range; `None` if the range reaches past the end of the table.
    pub fn slots_of(&self, range: SlotRange) -> Option<&[Slot]> {
        if range.len == 0 {
            return Some(&[]);
        }
        let start = range.offset as usize;
        self.slots.get(start..start.checked_add(range.len as usize)?)
    }

    /// The backend behind a slot; `None` if the slot has another generation, or if the id is free.
    pub fn backend_of(&self, slot: Slot) -> Option<&Backend> {
        self.backends.get(&slot.backend).filter(|b| b.generation == slot.generation && !b.is_free())
    }

    /// The bits of `interest` and `interest_coarse` that lead packets to these entries; flows need more bits.
    pub fn bits(&self) -> impl Iterator<Item = u32> + '_ {
        let ranges = self.ranges.iter().filter(|(_, rule)| **rule != RangeRule::Others);
        let backends = self.backends.values().filter(|b| !b.is_free());
        let frontends = self.frontends.keys().map(FrontendKey::bit);
        frontends
            .chain(backends.map(|b| interest_bit(b.addr, b.port, b.proto)))
            .chain(self.local_addrs.iter().copied().map(node_bit))
            .chain(ranges.flat_map(|(prefix, _)| prefix.range_bits()))
    }

    fn write_slots(&mut self, start: usize, slots: &[Slot]) {
        let end = start + slots.len();
        if self.slots.len() < end {
            self.slots.resize(end, Slot::default());
        }
        self.slots[start..end].copy_from_slice(slots);
    }

    fn change_backend(&mut self, id: u32, change: impl FnOnce(&mut Backend)) {
        if let Some(backend) = self.backends.get_mut(&id) {
            change(backend);
        }
    }

    fn delete_source_range(&mut self, service: u32, prefix: &Prefix) {
        if let Some(ranges) = self.source_ranges.get_mut(&service) {
            ranges.remove(prefix);
            if ranges.is_empty() {
                self.source_ranges.remove(&service);
            }
        }
    }

    fn service_mut(&mut self, id: u32) -> &mut Service {
        self.services
            .entry(id)
            .or_insert(Service { active: 0, records: [ServiceRecord::default(), ServiceRecord::default()] })
    }
}
