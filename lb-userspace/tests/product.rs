//! The function that chooses the sets, over the full product of its inputs, against a second implementation written
//! from the rules: one readable condition after the other, on plain lists.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its failure")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use lb_common::{Endpoint, FrontendKind, Port, Proto};
use lb_userspace::desired::DesiredPort;
use lb_userspace::desired::outcome::{Client, Outcome};
use lb_userspace::model::Model;
use lb_userspace::objects::event::{Change, Event};
use lb_userspace::objects::name::ObjectName;
use lb_userspace::objects::node::Node;
use lb_userspace::objects::service::{Policy, Service, ServiceKind, ServicePort};
use lb_userspace::objects::slice::{Hints, Slice, SliceEndpoint, SlicePort};
use proptest::prelude::*;

/// How a Service can be reached in addition to its ClusterIP.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reach {
    ClusterIp,
    NodePort,
    /// An address that nodes serve (`ipMode` VIP), without a NodePort.
    Balanced,
    /// A load balancer with `ipMode` Proxy, so nodes have nothing to serve.
    BalancedElsewhere,
    ExternalIp,
}

const REACHES: [Reach; 5] =
    [Reach::ClusterIp, Reach::NodePort, Reach::Balanced, Reach::BalancedElsewhere, Reach::ExternalIp];

#[derive(Clone, Copy, Debug, PartialEq)]
struct Policies {
    internal_local: bool,
    external_local: bool,
    reach: Reach,
}

/// What hints name: nothing, this node or zone, or another one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Hint {
    None,
    Ours,
    Other,
}

const HINTS: [Hint; 3] = [Hint::None, Hint::Ours, Hint::Other];

#[derive(Clone, Copy, Debug, PartialEq)]
struct Kind {
    ready: bool,
    serving: bool,
    terminating: bool,
    is_local: bool,
    node: Hint,
    zone: Hint,
}

/// All 144 kinds of endpoint.
fn kinds() -> Vec<Kind> {
    let mut kinds = Vec::new();
    for bits in 0..16_u8 {
        for node in HINTS {
            for zone in HINTS {
                let bit = |at: u8| bits & (1 << at) != 0;
                kinds.push(Kind {
                    ready: bit(0),
                    serving: bit(1),
                    terminating: bit(2),
                    is_local: bit(3),
                    node,
                    zone,
                });
            }
        }
    }
    kinds
}

fn policies() -> Vec<Policies> {
    let mut all = Vec::new();
    for reach in REACHES {
        for (internal_local, external_local) in [(false, false), (false, true), (true, false), (true, true)] {
            all.push(Policies { internal_local, external_local, reach });
        }
    }
    all
}

/// Endpoints are given by their place in the list.
#[derive(Debug, PartialEq)]
struct Chosen {
    cluster: BTreeSet<usize>,
    local: BTreeSet<usize>,
    /// Outcomes by client: pod, host, outside.
    cluster_ip: [Outcome; 3],
    external: [Outcome; 3],
}

/// The rules as stated in KEP-1669, KEP-2086, KEP-2433, KEP-3015 and k/k pkg/proxy/topology.go.
fn naive(policies: Policies, endpoints: &[Kind], has_zone: bool) -> Chosen {
    let all: Vec<usize> = (0..endpoints.len()).collect();
    let only = |list: &[usize], test: &dyn Fn(&Kind) -> bool| -> Vec<usize> {
        list.iter().copied().filter(|index| test(&endpoints[*index])).collect()
    };
    let every =
        |list: &[usize], test: &dyn Fn(&Kind) -> bool| list.iter().all(|index| test(&endpoints[*index]));

    let reachable_from_outside =
        matches!(policies.reach, Reach::NodePort | Reach::Balanced | Reach::ExternalIp);
    // A Service of type ClusterIP without externalIPs has no external policy.
    let external_local = policies.external_local && policies.reach != Reach::ClusterIp;
    let uses_cluster = !policies.internal_local || reachable_from_outside;
    let uses_local = policies.internal_local || (external_local && reachable_from_outside);

    let ready = only(&all, &|e| e.ready);
    let last_resort = only(&all, &|e| e.serving && e.terminating);

    let for_node = only(&ready, &|e| e.node == Hint::Ours);
    let for_zone = only(&ready, &|e| e.zone == Hint::Ours);
    let mut cluster = ready.clone();
    if every(&ready, &|e| e.node != Hint::None) && !for_node.is_empty() {
        cluster = for_node;
    } else if has_zone && every(&ready, &|e| e.zone != Hint::None) && !for_zone.is_empty() {
        cluster = for_zone;
    }
    if cluster.is_empty() {
        cluster = last_resort.clone();
    }
    if !uses_cluster {
        cluster.clear();
    }

    let mut local = only(&ready, &|e| e.is_local);
    if local.is_empty() {
        local = only(&last_resort, &|e| e.is_local);
    }
    if !uses_local {
        local.clear();
    }

    let nobody_anywhere = ready.is_empty() && last_resort.is_empty();
    let outcome = |wants_local: bool| {
        if nobody_anywhere {
            Outcome::Reject
        } else if wants_local && local.is_empty() {
            Outcome::Drop
        } else if wants_local {
            Outcome::Local
        } else {
            Outcome::Cluster
        }
    };
    Chosen {
        cluster_ip: [outcome(policies.internal_local); 3],
        external: [outcome(false), outcome(false), outcome(external_local)],
        cluster: cluster.into_iter().collect(),
        local: local.into_iter().collect(),
    }
}

const NODE: &str = "n1";

fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 1 + u8::try_from(index).unwrap())
}

fn service(policies: Policies) -> Service {
    let policy = |is_local| if is_local { Policy::Local } else { Policy::Cluster };
    let ip = |text: &str| -> lb_common::Addr { text.parse::<Ipv4Addr>().unwrap().into() };
    let object =
        serde_json::json!({"metadata": {"namespace": "ns", "name": "s"}, "spec": {"clusterIP": "10.96.0.1"}});
    let mut service = Service::new(serde_json::from_value(object).unwrap(), None);
    service.kind = match policies.reach {
        Reach::ClusterIp | Reach::ExternalIp => ServiceKind::ClusterIp,
        Reach::NodePort => ServiceKind::NodePort,
        Reach::Balanced | Reach::BalancedElsewhere => ServiceKind::LoadBalancer,
    };
    let node_port = Port::new(if policies.reach == Reach::NodePort { 30_080 } else { 0 });
    service.ports = vec![ServicePort { name: "a".into(), proto: Proto::Tcp, port: Port::new(80), node_port }];
    if policies.reach == Reach::Balanced {
        service.load_balancer_ips = vec![ip("192.0.2.1")];
    }
    if policies.reach == Reach::ExternalIp {
        service.external_ips = vec![ip("192.0.2.2")];
    }
    service.internal_policy = policy(policies.internal_local);
    // `Service::new` removes the external policy of a Service without external addresses; another test covers that
    // rule.
    service.external_policy = policy(policies.external_local && policies.reach != Reach::ClusterIp);
    service
}

fn slice(endpoints: &[Kind]) -> Slice {
    let endpoint = |(index, kind): (usize, &Kind)| {
        let names = |hint, ours: &str| match hint {
            Hint::None => vec![],
            Hint::Ours => vec!["else".into(), ours.into()],
            Hint::Other => vec!["else".into()],
        };
        SliceEndpoint {
            addr: address(index).into(),
            ready: kind.ready,
            serving: kind.serving,
            terminating: kind.terminating,
            node: kind.is_local.then(|| NODE.into()),
            hints: Some(Box::new(Hints { nodes: names(kind.node, NODE), zones: names(kind.zone, "z1") })),
        }
    };
    let object = serde_json::json!({
        "metadata": {"namespace": "ns", "name": "e", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "endpoints": [],
    });
    let mut slice = Slice::new(serde_json::from_value(object).unwrap(), None);
    slice.ports = vec![SlicePort { name: "a".into(), proto: Proto::Tcp, port: Port::new(8080) }];
    slice.endpoints = endpoints.iter().enumerate().map(endpoint).collect();
    slice
}

/// A model with one Service whose endpoints are replaced again and again, as in an agent.
struct Subject {
    policies: Policies,
    model: Model,
}

impl Subject {
    /// One subject for each combination of policies.
    fn all(has_zone: bool) -> Vec<Self> {
        let node =
            Node { name: ObjectName::new("", NODE), zone: has_zone.then(|| "z1".into()), ..Node::default() };
        let subject = |policies| {
            let mut model = Model::new(NODE);
            model.apply(Event::Node(Change::Apply(node.clone())));
            model.apply(Event::Service(Change::Apply(service(policies))));
            Self { policies, model }
        };
        policies().into_iter().map(subject).collect()
    }

    fn choose(&self) -> Chosen {
        let ports = self.model.decided(&ObjectName::new("ns", "s"));
        let port: DesiredPort = ports.into_values().next().unwrap();
        let indices = |set: &BTreeSet<Endpoint>| {
            set.iter().map(|endpoint| usize::from(endpoint.addr.octets[15]) - 1).collect()
        };
        let outcomes = |kind| Client::ALL.map(|client| Outcome::of(&port, kind, client));
        Chosen {
            cluster: indices(&port.cluster),
            local: indices(&port.local),
            cluster_ip: outcomes(FrontendKind::Cluster),
            external: outcomes(FrontendKind::External),
        }
    }
}

fn assert_like_the_rules(subjects: &mut [Subject], endpoints: &[Kind], has_zone: bool) {
    let slice = slice(endpoints);
    for subject in subjects {
        subject.model.apply(Event::Slice(Change::Apply(slice.clone())));
        let policies = subject.policies;
        let (chosen, mut expected) = (subject.choose(), naive(policies, endpoints, has_zone));
        if matches!(policies.reach, Reach::ClusterIp | Reach::BalancedElsewhere) {
            // There is no frontend for this question.
            expected.external = chosen.external;
        }
        assert_eq!(chosen, expected, "{policies:?} {endpoints:?} zone {has_zone}");
    }
}

/// (policies) x (readiness x locality x hints of none, one and any two endpoints) x (zone or none).
#[test]
fn the_sets_are_those_of_the_rules_for_every_pair_of_endpoints() {
    let mut counts = Vec::new();
    for has_zone in [true, false] {
        // Without a zone, every zone belongs to others, so one kind of hint is enough.
        let kinds: Vec<Kind> =
            kinds().into_iter().filter(|kind| has_zone || kind.zone != Hint::Other).collect();
        let mut count = 0_u32;
        let mut subjects = Subject::all(has_zone);
        let mut check = |endpoints: &[Kind]| {
            assert_like_the_rules(&mut subjects, endpoints, has_zone);
            count += 1;
        };
        check(&[]);
        for (index, first) in kinds.iter().enumerate() {
            check(&[*first]);
            kinds[index..].iter().for_each(|second| check(&[*first, *second]));
        }
        counts.push(count);
    }
    assert_eq!(counts, [1 + 144 + 144 * 145 / 2, 1 + 96 + 96 * 97 / 2]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Covers errors that need more than two endpoints.
    #[test]
    fn the_sets_are_those_of_the_rules_for_more_endpoints(
        endpoints in prop::collection::vec(prop::sample::select(kinds()), 3..8),
        has_zone in any::<bool>(),
    ) {
        assert_like_the_rules(&mut Subject::all(has_zone), &endpoints, has_zone);
    }
}
