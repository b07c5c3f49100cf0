//! What a packet program may see in the tables at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use lb_common::{Active, FrontendKey, FrontendKind, Proto, ServiceRecord, Slot};
use lb_userspace::objects::name::ServicePortName;
use lb_userspace::tables::Tables;
use lb_userspace::tables::op::Op;

use super::naive::{Address, Behind};

pub fn address(key: &FrontendKey) -> Address {
    let proto = Proto::from_number(key.proto).unwrap();
    (SocketAddr::new(key.addr.into(), key.port.host()), proto.to_string())
}

/// Follows every frontend to its endpoints as a packet does, and fails if a reference leads nowhere.
pub fn frontends(tables: &Tables) -> BTreeMap<Address, (FrontendKind, Behind)> {
    let kind = |kind| FrontendKind::from_number(kind).unwrap();
    tables
        .frontends
        .iter()
        .map(|(key, f)| (address(key), (kind(f.kind), behind(tables, f.service))))
        .collect()
}

fn behind(tables: &Tables, service: u32) -> Behind {
    let record = tables.record(service);
    let name = tables.names.get(&service).unwrap_or_else(|| panic!("service {service} has no name"));
    let name = ServicePortName::from_table(name).unwrap();
    let set = |range| {
        let slots = tables.slots_of(range).unwrap_or_else(|| panic!("{name}: slots beyond the table"));
        let addresses = slots.iter().map(|slot| {
            let backend =
                tables.backend_of(*slot).unwrap_or_else(|| panic!("{name}: {slot:?} leads nowhere"));
            assert_eq!(backend.service, service, "{name}: the backend belongs to another service");
            assert_eq!(backend.proto, name.proto as u8);
            SocketAddr::new(backend.addr.into(), backend.port.host())
        });
        addresses.collect()
    };
    Behind {
        cluster: set(record.cluster),
        local: set(record.local),
        internal_local: record.flags & ServiceRecord::INTERNAL_LOCAL != 0,
        external_local: record.flags & ServiceRecord::EXTERNAL_LOCAL != 0,
        has_endpoints: record.flags & ServiceRecord::HAS_ENDPOINTS != 0,
        affinity: record.affinity_timeout,
        ranges: (record.flags & ServiceRecord::SOURCE_RANGES != 0).then(|| {
            let ranges = tables.source_ranges.get(&service).into_iter().flatten();
            ranges.map(ToString::to_string).collect()
        }),
        owner: name.name.to_string(),
        port: name.port.to_string(),
    }
}

/// Asserts that between any two operations each frontend that is to stay exists and leads to what its old or new
/// service stood for before the plan or stands for after it.
pub fn assert_make_before_break(before: &Tables, ops: &[Op], readers: &[Reader]) -> Tables {
    let mut after = before.clone();
    ops.iter().for_each(|op| after.apply(op));
    assert!(ops.is_sorted_by_key(Op::kind), "operations are out of order: {ops:?}");

    let mut now = before.clone();
    for op in ops {
        now.apply(op);
        for key in before.frontends.keys().filter(|key| after.frontends.contains_key(key)) {
            assert!(now.frontends.contains_key(key), "{key:?} is missing after {op}");
        }
        for (key, frontend) in &now.frontends {
            let owners = [before, &after].map(|tables| tables.frontends.get(key).map(|f| f.service));
            assert!(owners.contains(&Some(frontend.service)), "{key:?} has a wrong owner after {op}");
            let seen = behind(&now, frontend.service);
            let stood_for: Vec<Behind> = [before, &after]
                .iter()
                .filter(|tables| tables.names.contains_key(&frontend.service))
                .map(|tables| behind(tables, frontend.service))
                .collect();
            // Ranges are written before the record that asks for them and deleted after it: a client that both states
            // admit gets in, and no client that neither admits.
            let is_one_of_them = stood_for.iter().any(|one| {
                let ranges = one.ranges.is_some() == seen.ranges.is_some();
                ranges && Behind { ranges: None, ..one.clone() } == Behind { ranges: None, ..seen.clone() }
            });
            assert!(is_one_of_them, "{key:?} leads to a mixture after {op}: {seen:?}");
            if let Some(seen) = &seen.ranges {
                let all: Vec<&BTreeSet<String>> =
                    stood_for.iter().filter_map(|one| one.ranges.as_ref()).collect();
                assert!(
                    all.iter().any(|ranges| ranges.is_subset(seen)),
                    "{key:?} shuts clients out after {op}"
                );
                let known = |range| all.iter().any(|ranges| ranges.contains(range));
                assert!(seen.iter().all(known), "{key:?} lets strangers in after {op}: {seen:?}");
            }
            assert!(now.interest.contains(key.bit()), "{key:?} has no bit of interest after {op}");
        }
        readers.iter().for_each(|reader| reader.assert_undisturbed(&now));
    }
    after
}

/// A packet program that read `active` some time ago and has not ended.
#[derive(Clone, Debug)]
pub struct Reader {
    pub started: u64,
    service: u32,
    index: usize,
    record: ServiceRecord,
    slots: Vec<(u32, Slot)>,
    backends: Vec<(Slot, SocketAddr)>,
}

impl Reader {
    /// Starts one reader on each frontend.
    pub fn start(tables: &Tables, started: u64) -> Vec<Self> {
        let services = tables.frontends.values().map(|f| f.service);
        services
            .filter_map(|service| {
                let index = Active(tables.services.get(&service)?.active).index();
                let record = tables.record(service);
                let ranges = [record.cluster, record.local];
                let indexes: Vec<u32> = ranges.iter().flat_map(|r| r.offset..r.offset + r.len).collect();
                let slots: Vec<(u32, Slot)> =
                    indexes.into_iter().map(|index| (index, tables.slots[index as usize])).collect();
                let backends = slots.iter().map(|(_, slot)| {
                    let backend = tables.backend_of(*slot).unwrap();
                    (*slot, SocketAddr::new(backend.addr.into(), backend.port.host()))
                });
                Some(Self { started, service, index, record, backends: backends.collect(), slots })
            })
            .collect()
    }

    /// Asserts that nothing that the reader is about to read has become something else: record and slots are
    /// unchanged; a backend is the same or has another generation.
    fn assert_undisturbed(&self, tables: &Tables) {
        assert_eq!(tables.services[&self.service].records[self.index], self.record, "{self:?}");
        for (index, slot) in &self.slots {
            assert_eq!(tables.slots[*index as usize], *slot, "{self:?}");
        }
        for (slot, address) in &self.backends {
            let backend = &tables.backends[&slot.backend];
            let is_same = SocketAddr::new(backend.addr.into(), backend.port.host()) == *address;
            if backend.generation == slot.generation {
                assert!(is_same && !backend.is_free(), "{self:?}");
            } else {
                assert!(is_same, "id {} was reused too early: {self:?}", slot.backend);
            }
        }
    }
}
