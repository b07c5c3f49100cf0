//! Which endpoints serve which clients: traffic policy, readiness, termination (KEP-1669, KEP-2086) and topology hints
//! (KEP-2433, KEP-3015, KEP-4444), as k/k pkg/proxy/topology.go decides.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{Addr, Algorithm, BackendState, Endpoint, FrontendKey, Proto, ServiceRecord};

use super::endpoints;
use super::node_ports::NodePortAddresses;
use super::rules::Rules;
use crate::desired::{BackendShare, DesiredPort};
use crate::objects::name::{Family, ServicePortName};
use crate::objects::node::Node;
use crate::objects::notice::{Problem, Severity};
use crate::objects::service::{Policy, Service, ServicePort};
use crate::objects::slice::{Slice, SliceEndpoint};

/// The agent's node, and the rules of the command line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standpoint<'a> {
    pub(super) name: &'a str,
    /// `None` while the object does not exist.
    pub(super) node: Option<&'a Node>,
    pub(super) rules: &'a Rules,
}

impl Standpoint<'_> {
    /// The node's address. As in kube-proxy, the loopback address if the node has none (k/k
    /// cmd/kube-proxy/app/server.go).
    fn ip(&self, family: Family) -> Addr {
        let primary = self.node.and_then(|node| node.primary_ip(family));
        primary.unwrap_or_else(|| NodePortAddresses::loopback(family))
    }
}

type Endpoints<'a> = BTreeMap<Endpoint, &'a SliceEndpoint>;

/// Everything about a service port except its frontends.
pub(super) fn port(
    service: &Service,
    port: &ServicePort,
    family: Family,
    slices: &[&Slice],
    place: Standpoint,
) -> DesiredPort {
    let endpoints = endpoints::merged(&port.name, port.proto, family, slices);
    let is_external = service.is_external(port, family, place.rules);
    let internal_local = service.internal_policy == Policy::Local;
    let external_local = service.external_policy == Policy::Local;
    let use_cluster = !internal_local || is_external;
    let use_local = internal_local || (external_local && is_external);
    let has_endpoints = endpoints.values().any(|e| is_ready(e) || is_last_resort(e));
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    let mut shares = backends(&endpoints, port.proto);
    if endpoints.is_empty() {
        let kept = endpoints::unclaimed(service, &port.name, port.proto, family, slices);
        let ends = |share| BackendShare { state: BackendState::Terminating, ..share };
        shares.extend(backends(&kept, port.proto).into_iter().map(|(key, share)| (key, ends(share))));
    }
    let source_ranges = service.admitted(family, place.ip(family));
    let host_admitted = source_ranges.iter().any(|range| range.contains(place.ip(family)));
    DesiredPort {
        frontends: BTreeMap::new(),
        cluster: if use_cluster { cluster_set(&endpoints, place) } else { BTreeSet::new() },
        local: if use_local { local_set(&endpoints, place) } else { BTreeSet::new() },
        backends: shares,
        flags: flag(internal_local, ServiceRecord::INTERNAL_LOCAL)
            | flag(external_local, ServiceRecord::EXTERNAL_LOCAL)
            | flag(has_endpoints, ServiceRecord::HAS_ENDPOINTS)
            | flag(host_admitted, ServiceRecord::HOST_ADMITTED),
        algorithm: Algorithm::Random,
        affinity_timeout: service.affinity_timeout,
        source_ranges,
    }
}

/// Reports packets that will be dropped because SCTP ports cannot be translated: the checksum of SCTP covers the whole
/// packet, ports included, but not the addresses.
pub(super) fn sctp_port_change((name, port): (&ServicePortName, &DesiredPort)) -> Option<Problem> {
    if name.proto != Proto::Sctp {
        return None;
    }
    let differs = |frontend: &FrontendKey, backend: &Endpoint| frontend.port != backend.port;
    let other = port.backends.keys().find(|b| port.frontends.keys().any(|f| differs(f, b)))?;
    let numbers = port.frontends.keys().filter(|f| differs(f, other)).map(|f| f.port);
    let numbers: Vec<String> = BTreeSet::from_iter(numbers).iter().map(ToString::to_string).collect();
    let text = format!(
        "port \"{}\": SCTP ports are not translated: packets to {} are dropped if the endpoint listens on {}; use one \
         number for port, nodePort and targetPort",
        name.port,
        numbers.join(" and "),
        other.port
    );
    Some(Problem::new(Severity::Warning, text).told("SCTPPortChange"))
}

fn cluster_set(endpoints: &Endpoints, place: Standpoint) -> BTreeSet<Endpoint> {
    let mode = Mode::of(endpoints, place);
    let ready = pick(endpoints, |e| is_ready(e) && mode.admits(e));
    if ready.is_empty() { pick(endpoints, is_last_resort) } else { ready }
}

/// The endpoints on this node. Topology hints do not apply to them.
fn local_set(endpoints: &Endpoints, place: Standpoint) -> BTreeSet<Endpoint> {
    let is_local = |e: &SliceEndpoint| e.node.as_deref() == Some(place.name);
    let ready = pick(endpoints, |e| is_ready(e) && is_local(e));
    if ready.is_empty() { pick(endpoints, |e| is_last_resort(e) && is_local(e)) } else { ready }
}

fn pick(endpoints: &Endpoints, admits: impl Fn(&SliceEndpoint) -> bool) -> BTreeSet<Endpoint> {
    endpoints.iter().filter(|(_, e)| admits(e)).map(|(key, _)| *key).collect()
}

/// As the controller reports it. A terminating endpoint is ready only because of `publishNotReadyAddresses`.
fn is_ready(endpoint: &SliceEndpoint) -> bool {
    endpoint.ready
}

/// Whether the endpoint receives new connections if no endpoint is ready (KEP-1669).
fn is_last_resort(endpoint: &SliceEndpoint) -> bool {
    endpoint.serving && endpoint.terminating
}

/// Every endpoint that may have flows. A terminating endpoint keeps its flows. An endpoint that is not serving keeps
/// its connections (TCP, SCTP), as with kube-proxy, which never ends those; UDP moves elsewhere at once (k/k
/// pkg/proxy/conntrack/cleanup.go).
fn backends(endpoints: &Endpoints, proto: Proto) -> BTreeMap<Endpoint, BackendShare> {
    let keeps = |e: &SliceEndpoint| is_ready(e) || e.serving || proto != Proto::Udp;
    let share = |e: &SliceEndpoint| BackendShare {
        state: if is_ready(e) && !e.terminating { BackendState::Active } else { BackendState::Terminating },
        weight: 1,
    };
    endpoints.iter().filter(|(_, e)| keeps(e)).map(|(key, e)| (*key, share(e))).collect()
}

/// How hints narrow the ready endpoints. A single endpoint without a hint turns a mode off, because the controller is
/// in the middle of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode<'a> {
    All,
    Node(&'a str),
    Zone(&'a str),
}

impl<'a> Mode<'a> {
    fn of(endpoints: &Endpoints, place: Standpoint<'a>) -> Self {
        let ready = || endpoints.values().filter(|e| is_ready(e));
        let all_and_some = |hints: fn(&SliceEndpoint) -> &[String], own: &str| {
            ready().all(|e| !hints(e).is_empty()) && ready().any(|e| hints(e).iter().any(|name| name == own))
        };
        if all_and_some(SliceEndpoint::node_hints, place.name) {
            return Self::Node(place.name);
        }
        match place.node.and_then(|node| node.zone.as_deref()) {
            Some(zone) if all_and_some(SliceEndpoint::zone_hints, zone) => Self::Zone(zone),
            _ => Self::All,
        }
    }

    fn admits(self, endpoint: &SliceEndpoint) -> bool {
        match self {
            Self::All => true,
            Self::Node(node) => endpoint.node_hints().iter().any(|name| name == node),
            Self::Zone(zone) => endpoint.zone_hints().iter().any(|name| name == zone),
        }
    }
}
