//! Random histories of events against a naive model, with packets in flight, failures, and restarts.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its failure")]

mod naive;
mod objects;
mod readers;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{Frontend, FrontendKind, Prefix, RangeRule};
use lb_userspace::desired::Desired;
use lb_userspace::model::Model;
use lb_userspace::objects::event::{Change, Event};
use lb_userspace::objects::name::ObjectName;
use lb_userspace::plan::{Batch, Limits, Planner};
use lb_userspace::tables::Tables;
use lb_userspace::tables::plane::{MemoryPlane, Plane};
use objects::{NODE, TestService, TestSlice};
use proptest::prelude::*;
use readers::Reader;

#[derive(Clone, Debug)]
enum Step {
    ApplyService(TestService),
    DeleteService(usize),
    ApplySlice(TestSlice),
    DeleteSlice(usize),
    Node(Option<u8>),
    DeleteNode,
    /// The sources deliver full lists again, without these objects.
    Relist {
        lost_service: usize,
        lost_slice: usize,
    },
    /// The agent ends and starts again on the same tables; before that, it may fail in the middle of a plan.
    Restart,
    FailAfter(usize),
    /// The events so far are applied to the tables.
    Settle,
    /// Packets arrive and take some time.
    Packets,
    GraceBegins,
    GraceEnds,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => objects::service().prop_map(Step::ApplyService),
        1 => (0..4_usize).prop_map(Step::DeleteService),
        10 => objects::slice().prop_map(Step::ApplySlice),
        2 => (0..6_usize).prop_map(Step::DeleteSlice),
        1 => prop::option::of(0..2_u8).prop_map(Step::Node),
        1 => Just(Step::DeleteNode),
        1 => (0..8_usize, 0..12_usize)
            .prop_map(|(lost_service, lost_slice)| Step::Relist { lost_service, lost_slice }),
        1 => Just(Step::Restart),
        1 => (0..12_usize).prop_map(Step::FailAfter),
        10 => Just(Step::Settle),
        3 => Just(Step::Packets),
        4 => Just(Step::GraceBegins),
        4 => Just(Step::GraceEnds),
    ]
}

/// The agent's loop, with a clock that counts steps and packets that outlive several of them.
struct World {
    services: BTreeMap<usize, TestService>,
    slices: BTreeMap<usize, TestSlice>,
    zone: Option<Option<u8>>,
    model: Model,
    planner: Planner,
    plane: MemoryPlane,
    limits: Limits,
    readers: Vec<Reader>,
    /// The closed batch, and when its grace period began.
    grace: Option<(Batch, u64)>,
    now: u64,
}

impl World {
    fn new(limits: Limits) -> Self {
        let mut world = Self {
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            zone: None,
            model: Model::new(NODE),
            planner: Planner::restore(Tables::default(), limits),
            plane: MemoryPlane::default(),
            limits,
            readers: Vec::new(),
            grace: None,
            now: 0,
        };
        world.relist();
        world
    }

    fn step(&mut self, step: Step) {
        self.now += 1;
        match step {
            Step::ApplyService(service) => {
                self.model.apply(objects::service_event(&service));
                self.services.insert(service.name, service);
            }
            Step::DeleteService(number) => {
                self.model.apply(Event::Service(Change::Delete(objects::name('s', number))));
                self.services.remove(&number);
            }
            Step::ApplySlice(slice) => {
                self.model.apply(objects::slice_event(&slice));
                self.slices.insert(slice.name, slice);
            }
            Step::DeleteSlice(number) => {
                self.model.apply(Event::Slice(Change::Delete(objects::name('e', number))));
                self.slices.remove(&number);
            }
            Step::Node(zone) => {
                self.model.apply(objects::node_event(zone));
                self.zone = Some(zone);
            }
            Step::DeleteNode => {
                self.model.apply(Event::Node(Change::Delete(ObjectName::new("", NODE))));
                self.zone = None;
            }
            Step::Relist { lost_service, lost_slice } => {
                self.services.remove(&lost_service);
                self.slices.remove(&lost_slice);
                self.relist();
            }
            Step::Restart => self.restart(),
            Step::FailAfter(operations) => self.plane.fail_after(operations),
            Step::Settle => self.settle(),
            Step::Packets => self.readers.extend(Reader::start(self.plane.tables(), self.now)),
            Step::GraceBegins => self.begin_grace(),
            Step::GraceEnds => self.end_grace(),
        }
    }

    fn relist(&mut self) {
        let services = self.services.values().map(objects::service_event);
        let slices = self.slices.values().map(objects::slice_event);
        let nodes = self.zone.iter().map(|zone| objects::node_event(*zone));
        let events: Vec<Event> =
            [Event::Service(Change::Init), Event::Slice(Change::Init), Event::Node(Change::Init)]
                .into_iter()
                .chain(slices)
                .chain(services)
                .chain(nodes)
                .collect();
        for event in events {
            self.model.apply(event);
        }
        self.model.apply(Event::Service(Change::InitDone));
        self.model.apply(Event::Slice(Change::InitDone));
        self.model.apply(Event::Node(Change::InitDone));
        self.model.apply(Event::ServiceCidr(Change::InitDone));
    }

    fn restart(&mut self) {
        self.model = Model::new(NODE);
        self.planner = Planner::restore(self.plane.read().unwrap(), self.limits);
        self.grace = None;
        assert!(self.model.desired().is_empty(), "nothing may be desired before the first full list");
        self.relist();
    }

    fn settle(&mut self) {
        self.carry_out(None);
    }

    fn carry_out(&mut self, desired: Option<Desired>) {
        let desired = desired.unwrap_or_else(|| self.model.desired());
        let plan = self.planner.plan(desired);
        let expected = readers::assert_make_before_break(self.plane.tables(), &plan.ops, &self.readers);
        assert!(expected == *self.planner.tables(), "the planner's picture must be the result of its plan");
        if self.plane.apply(&plan.ops).is_err() {
            // A grace period that has begun continues.
            self.planner.resume(self.plane.read().unwrap());
            self.model.resync();
        }
    }

    fn begin_grace(&mut self) {
        if self.grace.is_none() {
            self.grace = self.planner.pending().map(|batch| (batch, self.now));
        }
    }

    /// Ends the grace period: packets that started before it began have ended.
    fn end_grace(&mut self) {
        if let Some((batch, began)) = self.grace.take() {
            self.readers.retain(|reader| reader.started > began);
            self.planner.reclaim(batch);
        }
    }

    /// Continues until nothing waits any longer.
    fn come_to_rest(&mut self) {
        self.plane = MemoryPlane::new(self.plane.read().unwrap());
        self.settle();
        for _ in 0..4 {
            self.now += 1;
            self.end_grace();
            self.begin_grace();
            self.now += 1;
            self.end_grace();
            self.carry_out(Some(Desired::default()));
        }
        assert!(!self.planner.deferred(), "nothing may wait forever");
    }

    fn expected(&self) -> BTreeMap<naive::Address, (FrontendKind, naive::Behind)> {
        let services: Vec<_> = self.services.values().cloned().collect();
        let slices: Vec<_> = self.slices.values().cloned().collect();
        naive::frontends(&services, &slices, self.zone.flatten())
    }

    /// Asserts that everything in use belongs to something desired and that the rest is free.
    fn assert_nothing_is_left_over(&self) {
        let tables = self.plane.tables();
        let owners: BTreeSet<u32> = tables.frontends.values().map(|f| f.service).collect();
        assert_eq!(owners, tables.names.keys().copied().collect());
        let used = tables.backends.values().filter(|b| b.state != 0);
        assert!(used.into_iter().all(|b| owners.contains(&b.service)));
        assert!(tables.source_ranges.keys().all(|service| owners.contains(service)));
        let cluster = |frontend: &Frontend| frontend.is(FrontendKind::Cluster);
        let cluster_ips =
            tables.frontends.iter().filter(|(_, f)| cluster(f)).map(|(key, _)| Prefix::host(key.addr));
        let refusing =
            tables.ranges.iter().filter(|(_, rule)| **rule == RangeRule::ClusterIp).map(|(p, _)| *p);
        assert_eq!(refusing.collect::<BTreeSet<_>>(), cluster_ips.collect());
    }
}

fn cases() -> ProptestConfig {
    // `PROPTEST_CASES` in the environment sets a larger number.
    ProptestConfig { max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_history_ends_where_its_objects_say(steps in prop::collection::vec(step(), 0..80)) {
        let mut world = World::new(Limits::default());
        for step in steps {
            world.step(step);
        }
        world.come_to_rest();
        prop_assert_eq!(readers::frontends(world.plane.tables()), world.expected());
        world.assert_nothing_is_left_over();
    }

    #[test]
    fn a_restart_without_a_change_is_no_operation(steps in prop::collection::vec(step(), 0..60)) {
        let mut world = World::new(Limits::default());
        for step in steps {
            world.step(step);
        }
        world.come_to_rest();
        world.restart();
        let desired = world.model.desired();
        prop_assert!(desired.complete);
        prop_assert_eq!(world.planner.plan(desired).ops, vec![]);
    }

    /// What does not fit leaves the rest unchanged and is added when there is room.
    #[test]
    fn small_tables_hold_what_fits(
        steps in prop::collection::vec(step(), 0..60),
        (frontends, services, slots, backends) in (1..6_u32, 1..6_u32, 1..12_u32, 1..12_u32),
    ) {
        let mut world = World::new(Limits { frontends, services, slots, backends, ..Limits::default() });
        for step in steps {
            world.step(step);
            let tables = world.plane.tables();
            prop_assert!(tables.frontends.len() <= frontends as usize);
            prop_assert!(tables.names.len() <= services as usize && tables.slots.len() <= slots as usize);
            prop_assert!(tables.backends.len() <= backends as usize);
        }
        world.come_to_rest();
        let (seen, expected) = (readers::frontends(world.plane.tables()), world.expected());
        if world.planner.notices().next().is_none() {
            prop_assert_eq!(seen, expected);
        }
    }
}
