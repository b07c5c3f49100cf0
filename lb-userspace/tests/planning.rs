//! The cost of a plan, what waits for a grace period, and how a restart continues with tables that were left
//! half-way.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its failure")]

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    Addr, Algorithm, Backend, BackendState, Endpoint, FrontendKey, FrontendKind, Port, Prefix, Proto,
    ServiceRecord,
};
use lb_userspace::desired::{BackendShare, Desired, DesiredPort, ServiceRanges};
use lb_userspace::objects::name::{Family, ServicePortName};
use lb_userspace::plan::{Limits, Planner};
use lb_userspace::tables::Tables;
use lb_userspace::tables::op::{Op, OpKind};

fn name(name: &str) -> ServicePortName {
    ServicePortName {
        namespace: "default".into(),
        name: name.into(),
        port: "http".into(),
        proto: Proto::Tcp,
        family: Family::Ipv4,
    }
}

fn addr(net: u8, host: u16) -> Addr {
    let [high, low] = host.to_be_bytes();
    std::net::Ipv4Addr::new(10, net, high, low).into()
}

fn vip(host: u16) -> FrontendKey {
    FrontendKey::new(addr(96, host), Port::new(80), Proto::Tcp.number())
}

fn port(vip: FrontendKey, endpoints: impl IntoIterator<Item = u16>) -> DesiredPort {
    let cluster: BTreeSet<Endpoint> =
        endpoints.into_iter().map(|host| Endpoint::new(addr(244, host), Port::new(8080))).collect();
    let share = BackendShare { state: BackendState::Active, weight: 1 };
    DesiredPort {
        frontends: BTreeMap::from([(vip, FrontendKind::Cluster)]),
        local: BTreeSet::new(),
        backends: cluster.iter().map(|endpoint| (*endpoint, share)).collect(),
        cluster,
        flags: ServiceRecord::HAS_ENDPOINTS,
        algorithm: Algorithm::Random,
        affinity_timeout: 0,
        source_ranges: BTreeSet::new(),
    }
}

fn one(service: &str, port: Option<DesiredPort>) -> Desired {
    Desired { services: BTreeMap::from([(name(service), port)]), complete: false, ..Desired::default() }
}

fn ops(planner: &mut Planner, desired: Desired) -> Vec<String> {
    planner.plan(desired).ops.iter().map(ToString::to_string).collect()
}

fn grace(planner: &mut Planner) {
    let batch = planner.pending().unwrap();
    planner.reclaim(batch);
}

fn planner() -> Planner {
    Planner::restore(Tables::default(), Limits::default())
}

#[test]
fn a_first_service_is_written_make_before_break() {
    let expected = [
        "write backend 0: 10.244.0.1:8080/TCP generation 1 service 0 weight 1 active",
        "write slots 0+1: 0.1",
        "write name 0: default/s:http/TCP/IPv4",
        "write record 0[1]: cluster 0+1 local 1+0 flags 4 affinity 0s algorithm 0",
        "flip 0 to record 1 version 1",
        "put frontend 10.96.0.1:80/TCP -> service 0",
        "put range 10.96.0.1/32 ClusterIP",
    ];
    let ops = ops(&mut planner(), one("s", Some(port(vip(1), [1]))));
    assert!(ops[..2].iter().all(|op| op.starts_with("set interest ")), "{ops:?}");
    assert!(ops[2].starts_with("set coarse interest "), "{ops:?}");
    assert_eq!(ops[3..], expected);
}

#[test]
fn an_endpoint_more_is_five_writes_however_large_the_service() {
    for size in [1, 10, 1000] {
        let mut planner = planner();
        planner.plan(one("s", Some(port(vip(1), 1..=size))));
        for other in 2..50 {
            planner.plan(one(&format!("s{other}"), Some(port(vip(other), [5000 + other]))));
        }
        grace(&mut planner);
        let plan = planner.plan(one("s", Some(port(vip(1), 1..=size + 1))));
        let kinds: Vec<OpKind> = plan.ops.iter().map(Op::kind).collect();
        let expected = [
            OpKind::SetInterest,
            OpKind::WriteBackend,
            OpKind::WriteSlots,
            OpKind::WriteRecord,
            OpKind::Flip,
        ];
        assert_eq!(kinds, expected, "{size}");
    }
}

#[test]
fn an_endpoint_less_and_a_service_gone_are_as_cheap() {
    let mut planner = planner();
    planner.plan(one("s", Some(port(vip(1), 1..=3))));
    grace(&mut planner);
    let fewer = ops(&mut planner, one("s", Some(port(vip(1), 1..=2))));
    assert_eq!(
        fewer,
        [
            "write slots 4+2: 0.1 1.1",
            "write record 0[0]: cluster 4+2 local 6+0 flags 4 affinity 0s algorithm 0",
            "flip 0 to record 0 version 2",
            "retire backend 2: generation 2",
        ]
    );
    let gone = ops(&mut planner, one("s", None));
    assert_eq!(
        gone,
        [
            "delete frontend 10.96.0.1:80/TCP",
            "delete range 10.96.0.1/32",
            "retire backend 0: generation 2",
            "retire backend 1: generation 2",
            "delete name 0",
        ]
    );
}

#[test]
fn a_state_alone_is_one_write_and_no_flip() {
    let mut planner = planner();
    planner.plan(one("s", Some(port(vip(1), [1, 2]))));
    let mut draining = port(vip(1), [1, 2]);
    draining.backends.values_mut().next().unwrap().state = BackendState::Terminating;
    assert_eq!(ops(&mut planner, one("s", Some(draining))), ["set backend 0 draining"]);
}

#[test]
fn a_policy_alone_keeps_the_slots() {
    let mut planner = planner();
    planner.plan(one("s", Some(port(vip(1), [1, 2]))));
    grace(&mut planner);
    let sticky = DesiredPort { affinity_timeout: 60, ..port(vip(1), [1, 2]) };
    let expected = [
        "write record 0[0]: cluster 0+2 local 2+0 flags 4 affinity 60s algorithm 0",
        "flip 0 to record 0 version 2",
    ];
    assert_eq!(ops(&mut planner, one("s", Some(sticky))), expected);
    assert!(planner.pending().is_some(), "the previous record may still be read");
}

#[test]
fn a_second_change_waits_for_the_grace_period_of_the_first() {
    let mut planner = planner();
    planner.plan(one("s", Some(port(vip(1), [1]))));
    assert_eq!(ops(&mut planner, one("s", Some(port(vip(1), [2])))), [""; 0]);
    assert!(planner.deferred());
    assert_eq!(ops(&mut planner, one("s", Some(port(vip(1), [3])))), [""; 0], "the newest change counts");
    let other = ops(&mut planner, one("t", Some(port(vip(2), [9]))));
    assert!(other.iter().any(|op| op.starts_with("flip 1")), "other services continue: {other:?}");
    grace(&mut planner);
    let late = ops(&mut planner, Desired::default());
    assert!(late[1].starts_with("write backend 2: 10.244.0.3:8080"), "{late:?}");
    assert!(!planner.deferred());
}

#[test]
fn a_frontend_changes_owner_in_place() {
    let mut planner = planner();
    planner.plan(one("old", Some(port(vip(1), [1]))));
    let services = BTreeMap::from([(name("old"), None), (name("new"), Some(port(vip(1), [2])))]);
    let ops = ops(&mut planner, Desired { services, complete: false, ..Desired::default() });
    assert!(ops.contains(&"put frontend 10.96.0.1:80/TCP -> service 1".to_owned()));
    assert!(!ops.iter().any(|op| op.starts_with("delete frontend")), "{ops:?}");
}

#[test]
fn a_full_table_names_the_service_and_leaves_the_others_alone() {
    let limits = Limits { backends: 3, ..Limits::default() };
    let mut planner = Planner::restore(Tables::default(), limits);
    planner.plan(one("a", Some(port(vip(1), [1, 2]))));
    let plan = planner.plan(one("b", Some(port(vip(2), [3, 4]))));
    let notices: Vec<String> = plan.notices.iter().map(ToString::to_string).collect();
    let expected = "Service default/b: table `backends` is full (3 entries): default/b:http/TCP/IPv4: it is not \
                    programmed";
    assert_eq!((plan.ops, notices), (vec![], vec![expected.to_owned()]));
    assert_eq!(plan.notices[0].reason, Some("TableFull"), "an Event is to be sent");
    assert_eq!(planner.plan(one("c", Some(port(vip(3), [5])))).ops.last().unwrap().kind(), OpKind::PutRange);
    assert_eq!(planner.plan(one("b", Some(port(vip(2), [3, 4])))).notices, [], "the notice is given once");

    planner.plan(one("a", None));
    grace(&mut planner);
    let plan = planner.plan(Desired::default());
    assert!(
        !plan.ops.is_empty() && planner.notices().next().is_none(),
        "the service is added when there is room"
    );
}

#[test]
fn full_frontends_make_room_by_the_next_plan_only() {
    let limits = Limits { frontends: 1, ..Limits::default() };
    let mut planner = Planner::restore(Tables::default(), limits);
    planner.plan(one("a", Some(port(vip(1), [1]))));
    let services = BTreeMap::from([(name("a"), None), (name("b"), Some(port(vip(2), [2])))]);
    let plan = planner.plan(Desired { services, complete: false, ..Desired::default() });
    assert!(plan.notices.is_empty() && planner.deferred());
    let plan = planner.plan(Desired::default());
    assert_eq!((plan.ops.last().map(Op::kind), planner.deferred()), (Some(OpKind::PutRange), false));
}

#[test]
fn a_frontend_given_up_makes_room_for_the_starved() {
    let limits = Limits { frontends: 2, ..Limits::default() };
    let mut planner = Planner::restore(Tables::default(), limits);
    let mut both = port(vip(1), [1]);
    both.frontends.insert(vip(9), FrontendKind::External);
    planner.plan(one("a", Some(both)));
    grace(&mut planner);
    assert_eq!(planner.plan(one("b", Some(port(vip(2), [2])))).notices.len(), 1);
    assert!(!planner.deferred());
    assert_eq!(ops(&mut planner, one("a", Some(port(vip(1), [1])))), ["delete frontend 10.96.0.9:80/TCP"]);
    assert!(planner.deferred() && planner.pending().is_none());
    assert_eq!(planner.plan(Desired::default()).ops.last().map(Op::kind), Some(OpKind::PutRange));
    assert!(!planner.deferred() && planner.notices().next().is_none());
}

#[test]
fn what_was_used_before_a_restart_is_pending_and_fresh_entries_are_not() {
    let mut first = planner();
    first.plan(one("s", Some(port(vip(1), 1..=4))));
    grace(&mut first);
    first.plan(one("s", Some(port(vip(1), 1..=2))));
    let mut planner = Planner::restore(first.tables().clone(), Limits::default());
    // Slots 0-3 and backends 2 and 3 have just been released.
    let early = ops(&mut planner, one("t", Some(port(vip(2), 10..=11))));
    assert!(early.iter().any(|op| op.starts_with("write backend 4:")), "{early:?}");
    assert!(early.iter().any(|op| op.starts_with("write slots 6+2:")), "{early:?}");
    assert_eq!(
        ops(&mut planner, one("s", Some(port(vip(1), [1])))),
        [""; 0],
        "the other record may still be read"
    );
    grace(&mut planner);
    let late = ops(&mut planner, one("u", Some(port(vip(3), 20..=23))));
    assert!(
        late.iter().any(|op| op.starts_with("write backend 2: 10.244.0.20:8080/TCP generation 2")),
        "{late:?}"
    );
    assert!(late.iter().any(|op| op.starts_with("write slots 0+1: 0.1")), "{late:?}");
}

/// A crash between two operations of a deletion leaves a name whose record points at retired backends. Their ids and
/// slots may belong to another service by then, and the restart must not attribute them to the deleted one.
#[test]
fn a_deletion_left_half_way_is_completed_without_touching_its_neighbours() {
    let mut first = planner();
    first.plan(one("gone", Some(port(vip(1), [1, 2]))));
    first.plan(one("stays", Some(port(vip(2), [3, 4]))));
    let mut tables = first.tables().clone();
    let deletion = first.plan(one("gone", None)).ops;
    let (last, most) = deletion.split_last().unwrap();
    assert_eq!(*last, Op::DeleteName { id: 0 });
    most.iter().for_each(|op| tables.apply(op));

    let mut planner = Planner::restore(tables, Limits::default());
    let services = BTreeMap::from([(name("stays"), Some(port(vip(2), [3, 4])))]);
    let ops = ops(&mut planner, Desired { services, complete: true, ..Desired::default() });
    assert_eq!(ops, ["delete name 0"]);
}

/// A crash between the name and the record of a new service leaves a reused id whose record is still that of the
/// previous owner.
#[test]
fn a_creation_left_half_way_starts_again() {
    let mut first = planner();
    first.plan(one("early", Some(port(vip(1), [1]))));
    first.plan(one("other", Some(port(vip(2), [2]))));
    first.plan(one("early", None));
    grace(&mut first);
    let mut tables = first.tables().clone();
    let creation = first.plan(one("late", Some(port(vip(2), [])))).ops;
    assert_eq!(creation[0], Op::WriteName { id: 0, name: Box::new(name("late").to_table()) });
    tables.apply(&creation[0]);

    let mut planner = Planner::restore(tables, Limits::default());
    let services = BTreeMap::from([(name("late"), Some(port(vip(2), [])))]);
    let expected = [
        "write name 2: default/late:http/TCP/IPv4",
        "write record 2[1]: cluster 0+0 local 0+0 flags 4 affinity 0s algorithm 0",
        "flip 2 to record 1 version 1",
        "put frontend 10.96.0.2:80/TCP -> service 2",
        "retire backend 1: generation 2",
        "delete name 1",
        "delete name 0",
    ];
    assert_eq!(ops(&mut planner, Desired { services, complete: true, ..Desired::default() }), expected);
}

/// Two failures in a row: the first leaves a backend of a service that was never completed, the second leaves the
/// service that got its id, with the same endpoint.
#[test]
fn of_an_endpoint_with_two_backends_the_one_in_the_slots_is_kept() {
    let mut tables = Tables::default();
    let desired = || Desired {
        services: one("s", Some(port(vip(1), [1]))).services,
        complete: true,
        ..Desired::default()
    };
    for last_done in [OpKind::WriteBackend, OpKind::PutFrontend] {
        let plan = Planner::restore(tables.clone(), Limits::default()).plan(desired()).ops;
        let done = plan.iter().take_while(|op| op.kind() <= last_done);
        done.for_each(|op| tables.apply(op));
    }
    let mut planner = Planner::restore(tables, Limits::default());
    assert_eq!(
        ops(&mut planner, desired()),
        ["put range 10.96.0.1/32 ClusterIP", "retire backend 0: generation 2"]
    );
}

/// The slots of a dead record now belong to another service.
#[test]
fn a_record_that_points_at_foreign_slots_owns_nothing() {
    let mut first = planner();
    first.plan(one("a", Some(port(vip(1), [1, 2]))));
    first.plan(one("b", Some(port(vip(2), [3, 4]))));
    let mut tables = first.tables().clone();
    let record = tables.record(1);
    tables.services.get_mut(&0).unwrap().records[1] = record;
    let mut planner = Planner::restore(tables, Limits::default());
    grace(&mut planner);
    let services =
        BTreeMap::from([(name("a"), Some(port(vip(1), [1, 2]))), (name("b"), Some(port(vip(2), [3, 4])))]);
    let ops = ops(&mut planner, Desired { services, complete: true, ..Desired::default() });
    assert_eq!(
        ops,
        [
            "write slots 0+2: 0.1 1.1",
            "write record 0[0]: cluster 0+2 local 2+0 flags 4 affinity 0s algorithm 0",
            "flip 0 to record 0 version 2",
        ]
    );
}

#[test]
fn what_nothing_names_is_removed_by_a_complete_plan() {
    let mut first = planner();
    first.plan(one("s", Some(port(vip(1), [1]))));
    let mut tables = first.tables().clone();
    tables.names.clear();
    let mut planner = Planner::restore(tables, Limits::default());
    let removed =
        ops(&mut planner, Desired { services: BTreeMap::new(), complete: true, ..Desired::default() });
    let expected =
        ["delete frontend 10.96.0.1:80/TCP", "delete range 10.96.0.1/32", "retire backend 0: generation 2"];
    assert_eq!(removed, expected);
}

#[test]
fn what_was_released_at_the_end_of_the_slots_is_pending_too() {
    let mut first = planner();
    first.plan(one("s", Some(port(vip(1), 1..=2))));
    grace(&mut first);
    first.plan(one("s", Some(port(vip(1), 1..=4))));
    grace(&mut first);
    first.plan(one("s", Some(port(vip(1), 1..=2))));
    let mut planner = Planner::restore(first.tables().clone(), Limits::default());
    let early = ops(&mut planner, one("t", Some(port(vip(2), 10..=13))));
    assert!(early.iter().any(|op| op.starts_with("write slots 8+4:")), "{early:?}");
}

#[test]
fn a_grace_period_from_before_a_failure_frees_nothing_after_it() {
    let mut planner = planner();
    planner.plan(one("s", Some(port(vip(1), [1]))));
    let under_way = planner.pending().unwrap();
    planner.plan(one("s", None));
    planner.resume(planner.tables().clone());
    planner.reclaim(under_way);
    let late = ops(&mut planner, one("t", Some(port(vip(2), [2]))));
    assert!(late.iter().any(|op| op.starts_with("write backend 1:")), "{late:?}");
    grace(&mut planner);
    let later = ops(&mut planner, one("u", Some(port(vip(3), [3]))));
    assert!(later.iter().any(|op| op.starts_with("write backend 0:")), "{later:?}");
}

#[test]
fn a_bit_that_the_sweep_cleared_is_set_again() {
    let mut planner = planner();
    let first = planner.plan(one("s", Some(port(vip(1), [1])))).ops;
    planner.plan(one("s", None));
    let bits: Vec<u32> = first
        .iter()
        .filter_map(|op| if let Op::SetInterest { bit } = op { Some(*bit) } else { None })
        .collect();
    assert_eq!(bits.len(), 3);
    planner.observe(&Op::ClearInterest { bit: bits[0] });
    let again = planner.plan(one("s", Some(port(vip(1), [1])))).ops;
    assert_eq!(again[0], Op::SetInterest { bit: bits[0] });
    assert!(again[1].kind() > OpKind::SetInterest, "the other bit is still set");
}

fn prefix(ip: &str, len: u8) -> Prefix {
    Prefix::new(ip.parse().unwrap(), len)
}

#[test]
fn source_ranges_come_before_the_record_that_asks_for_them_and_go_after_it() {
    let mut planner = planner();
    let with = |ranges: &[Prefix]| {
        let mut port = port(vip(1), [1]);
        port.frontends.insert(vip(9), FrontendKind::LoadBalancer);
        port.source_ranges = ranges.iter().copied().collect();
        one("s", Some(port))
    };
    planner.plan(with(&[]));
    grace(&mut planner);
    let (office, home) = (prefix("192.0.2.0", 24), prefix("198.51.100.7", 32));
    assert_eq!(
        ops(&mut planner, with(&[office])),
        [
            "put source range 192.0.2.0/24 -> service 0",
            "write record 0[0]: cluster 0+1 local 1+0 flags 12 affinity 0s algorithm 0",
            "flip 0 to record 0 version 2",
        ]
    );
    grace(&mut planner);
    assert_eq!(
        ops(&mut planner, with(&[home])),
        ["put source range 198.51.100.7/32 -> service 0", "delete source range 192.0.2.0/24 -> service 0"]
    );
    assert_eq!(
        ops(&mut planner, with(&[])),
        [
            "write record 0[1]: cluster 0+1 local 1+0 flags 4 affinity 0s algorithm 0",
            "flip 0 to record 1 version 3",
            "delete source range 198.51.100.7/32 -> service 0",
        ]
    );
    grace(&mut planner);
    planner.plan(with(&[home]));
    let gone = ops(&mut planner, one("s", None));
    assert!(gone.contains(&"delete source range 198.51.100.7/32 -> service 0".to_owned()), "{gone:?}");
    assert!(planner.tables().source_ranges.is_empty());
}

#[test]
fn a_port_with_another_name_at_the_same_address_is_the_same_service() {
    let mut planner = planner();
    planner.plan(one("s", Some(port(vip(1), [1, 2]))));
    grace(&mut planner);
    let other = ServicePortName { port: "web".into(), ..name("s") };
    let services = BTreeMap::from([(name("s"), None), (other.clone(), Some(port(vip(1), [1, 2])))]);
    let renamed = Desired { services, complete: false, ..Desired::default() };
    assert_eq!(ops(&mut planner, renamed), ["write name 0: default/s:web/TCP/IPv4"]);
    // A port at another address is another service.
    let services = BTreeMap::from([(other, None), (name("s"), Some(port(vip(2), [1, 2])))]);
    let moved = ops(&mut planner, Desired { services, complete: false, ..Desired::default() });
    assert!(moved.contains(&"delete frontend 10.96.0.1:80/TCP".to_owned()), "{moved:?}");
}

/// The first record of the service is not proven to be in force everywhere, so the second waits; without it every
/// client would be admitted.
#[test]
fn a_load_balancer_address_with_ranges_waits_for_the_record_that_guards_it() {
    let mut planner = planner();
    planner.plan(one("s", Some(port(vip(1), [1]))));
    let mut guarded = port(vip(1), [1]);
    guarded.frontends.insert(vip(9), FrontendKind::LoadBalancer);
    guarded.frontends.insert(vip(8), FrontendKind::External);
    guarded.source_ranges = [prefix("192.0.2.0", 24)].into();
    let first = ops(&mut planner, one("s", Some(guarded)));
    let puts = |ops: &[String], host: u16| {
        ops.iter().position(|op| op.starts_with(&format!("put frontend 10.96.0.{host}:80")))
    };
    assert!(puts(&first, 8).is_some() && puts(&first, 9).is_none(), "{first:?}");
    grace(&mut planner);
    let second = ops(&mut planner, Desired::default());
    let flip = second.iter().position(|op| op.starts_with("flip 0")).unwrap();
    assert!(puts(&second, 9).is_some_and(|put| put > flip), "{second:?}");
}

#[test]
fn source_ranges_beyond_the_table_leave_the_service_as_it_was() {
    let limits = Limits { source_ranges: 1, ..Limits::default() };
    let mut planner = Planner::restore(Tables::default(), limits);
    let mut port = port(vip(1), [1]);
    port.source_ranges = [prefix("192.0.2.0", 24), prefix("198.51.100.0", 24)].into();
    let plan = planner.plan(one("s", Some(port)));
    let notices: Vec<String> = plan.notices.iter().map(ToString::to_string).collect();
    assert_eq!(plan.ops, []);
    assert!(notices[0].contains("table `source_ranges` is full (1 entries)"), "{notices:?}");
}

#[test]
fn an_address_of_the_node_that_comes_or_goes_is_one_write() {
    let mut planner = planner();
    let addresses = |hosts: &[u16]| Desired {
        node_addresses: Some(hosts.iter().map(|host| addr(0, *host)).collect()),
        ..Desired::default()
    };
    let first = ops(&mut planner, addresses(&[1, 2]));
    assert!(first[0].starts_with("set coarse interest "), "the block comes first: {}", first[0]);
    assert_eq!(first[1..], ["put local address 10.0.0.1", "put local address 10.0.0.2"]);
    assert_eq!(ops(&mut planner, addresses(&[1, 2, 3])), ["put local address 10.0.0.3"]);
    assert_eq!(ops(&mut planner, addresses(&[2, 3])), ["delete local address 10.0.0.1"]);
    assert_eq!(ops(&mut planner, Desired::default()), [""; 0], "without a list the addresses stay");
    let mut again = Planner::restore(planner.tables().clone(), Limits::default());
    assert_eq!(ops(&mut again, addresses(&[2, 3])), [""; 0]);
}

#[test]
fn a_range_of_services_has_bits_and_a_cluster_ip_in_it_a_rule_of_its_own() {
    let mut planner = planner();
    let other = addr(97, 1);
    let ranges = |cidr: Prefix| Desired {
        service_ranges: Some(ServiceRanges { cidrs: [cidr].into(), others: [other].into() }),
        ..Desired::default()
    };
    let plan = ops(&mut planner, ranges(prefix("10.96.0.0", 12)));
    assert_eq!(plan.iter().filter(|op| op.starts_with("set coarse interest ")).count(), 128);
    assert_eq!(plan[128..], ["put range 10.96.0.0/12 unallocated", "put range 10.97.0.1/32 another proxy's"]);

    let mut port = port(vip(1), [1]);
    port.frontends.insert(vip(9), FrontendKind::LoadBalancer);
    let plan = ops(&mut planner, one("s", Some(port.clone())));
    let rules: Vec<&String> = plan.iter().filter(|op| op.contains(" range ")).collect();
    assert_eq!(
        rules,
        ["put range 10.96.0.1/32 ClusterIP"],
        "a load balancer address is not ours to refuse on"
    );

    // A restart without a change writes nothing.
    let mut again = Planner::restore(planner.tables().clone(), Limits::default());
    let services = BTreeMap::from([(name("s"), Some(port))]);
    let same = Desired { services, complete: true, ..ranges(prefix("10.96.0.0", 12)) };
    assert_eq!(ops(&mut again, same), [""; 0]);

    let fewer = ops(&mut planner, ranges(prefix("10.96.0.0", 16)));
    assert_eq!(fewer, ["put range 10.96.0.0/16 unallocated", "delete range 10.96.0.0/12"]);
    let too_wide = ops(&mut planner, ranges(prefix("10.0.0.0", 7)));
    assert_eq!(too_wide, ["delete range 10.96.0.0/16"]);
}

#[test]
fn a_node_port_is_found_by_its_number() {
    let mut planner = planner();
    let key = FrontendKey::new(Family::Ipv4.unspecified(), Port::new(30080), Proto::Tcp.number());
    let mut port = port(vip(1), [1]);
    port.frontends.insert(key, FrontendKind::NodePort);
    let plan = planner.plan(one("s", Some(port)));
    let bit = lb_common::port_bit(Port::new(30080));
    assert!(plan.ops.contains(&Op::SetInterest { bit }));
    let puts: Vec<String> =
        plan.ops.iter().map(ToString::to_string).filter(|op| op.starts_with("put ")).collect();
    assert_eq!(
        puts,
        [
            "put frontend 0.0.0.0:30080/TCP -> service 0",
            "put frontend 10.96.0.1:80/TCP -> service 0",
            "put range 10.96.0.1/32 ClusterIP"
        ]
    );
}

#[test]
fn a_backend_is_marked_with_its_sets_before_the_service_flips_to_them_and_unmarked_after() {
    let mut planner = planner();
    let endpoint = |host| Endpoint::new(addr(244, host), Port::new(8080));
    let mut both = port(vip(1), [1, 2]);
    planner.plan(one("s", Some(both.clone())));
    assert_eq!(planner.tables().backends[&0].sets, Backend::IN_CLUSTER);
    grace(&mut planner);
    both.cluster.remove(&endpoint(1));
    both.local.insert(endpoint(1));
    let plan = ops(&mut planner, one("s", Some(both)));
    assert_eq!(
        plan,
        [
            "write backend 0: 10.244.0.1:8080/TCP generation 1 service 0 weight 1 active",
            "write slots 2+2: 1.1 0.1",
            "write record 0[0]: cluster 2+1 local 3+1 flags 4 affinity 0s algorithm 0",
            "flip 0 to record 0 version 2",
            "set backend 0 sets local",
        ]
    );
    assert_eq!(planner.tables().backends[&0].sets, Backend::IN_LOCAL);
}
