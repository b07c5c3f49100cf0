//! What the sources said, and what follows from it for each Service. Pure: no clock, no I/O, nothing awaited.

mod addresses;
mod cidr;
mod claims;
mod endpoints;
mod node;
mod notice;
mod policy;
mod service;
mod store;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

pub use cidr::ServiceCidr;
pub use endpoints::{Hints, Slice, SliceEndpoint, SlicePort};
pub use node::Node;
pub(crate) use notice::Board;
pub use notice::{Notice, Severity};
pub use service::{Policy, Problem, Service, ServiceKind, ServicePort};

use k8s_openapi::jiff::Timestamp;

use crate::desired::{Desired, DesiredPort, Family, ServicePortName};
use crate::event::{Change, Event, Kind, ObjectName, Subject};
use claims::{Claim, Claims};
use lb_common::Port;
use policy::Place;
use store::{Named, Store};

/// The objects in force, and which Services a change of them touched.
#[derive(Clone, Debug)]
pub struct Model {
    node_name: String,
    services: Store<Service>,
    slices: Store<Slice>,
    nodes: Store<Node>,
    cidrs: Store<ServiceCidr>,
    /// Names of slices by the Service that they are of.
    slices_of: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    claims: Claims,
    /// Services to be decided anew.
    dirty: BTreeSet<ObjectName>,
    /// What was last desired of each Service.
    known: BTreeMap<ObjectName, BTreeSet<ServicePortName>>,
    health_checks: BTreeMap<(ObjectName, Family), HealthCheck>,
    /// The next [`Desired`] is to be complete.
    complete: bool,
    /// Objects whose newest state could not be decoded.
    broken: BTreeSet<Subject>,
    /// When the changes of endpoints began that were not asked for yet.
    triggers: Vec<(Family, Timestamp)>,
    board: Board<Source>,
}

/// What load balancers may ask about a Service of type LoadBalancer whose externalTrafficPolicy is Local.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `healthCheckNodePort`.
    pub port: Port,
    /// Addresses with a ready endpoint on this node. Terminating ones do not count, though they still serve: so a
    /// load balancer turns away in time (k/k pkg/proxy/healthcheck/service_health.go).
    pub local_endpoints: usize,
}

/// Where a notice comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    File(std::sync::Arc<str>),
    /// The object as it was read.
    Object(Subject),
    /// The object as it came, where it could not be decoded.
    Undecoded(Subject),
    /// A Service among the other objects.
    Service(ObjectName),
}

impl Model {
    /// `node_name` is the name of the agent's own Node: it says which endpoints are local.
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            node_name: node_name.into(),
            services: Store::default(),
            slices: Store::default(),
            nodes: Store::default(),
            cidrs: Store::default(),
            slices_of: BTreeMap::new(),
            claims: Claims::default(),
            dirty: BTreeSet::new(),
            known: BTreeMap::new(),
            health_checks: BTreeMap::new(),
            complete: true,
            broken: BTreeSet::new(),
            triggers: Vec::new(),
            board: Board::default(),
        }
    }

    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Service(change) => {
                self.note_broken(Kind::Service, &change);
                for (name, _) in self.services.apply(change) {
                    self.service_changed(name);
                }
            }
            Event::Slice(change) => {
                self.note_broken(Kind::EndpointSlice, &change);
                for (name, before) in self.slices.apply(change) {
                    self.slice_changed(name, before.as_ref());
                }
            }
            Event::Node(change) => {
                self.note_broken(Kind::Node, &change);
                if matches!(&change, Change::Apply(node) if node.name.name != self.node_name) {
                    return;
                }
                for (_, before) in self.nodes.apply(change) {
                    if before.and_then(|node| node.zone) != self.node().and_then(|node| node.zone.clone()) {
                        self.dirty.extend(self.services.names().cloned());
                    }
                }
            }
            Event::ServiceCidr(change) => {
                self.note_broken(Kind::ServiceCidr, &change);
                self.cidrs.apply(change);
            }
            Event::File { file, notices } => self.board.replace(Source::File(file), notices),
        }
    }

    /// Every kind has delivered its first full list. Nothing is desired before.
    pub fn ready(&self) -> bool {
        self.services.is_synced() && self.slices.is_synced() && self.nodes.is_synced()
    }

    /// The agent's own Node; `None` while there is no such object.
    pub fn node(&self) -> Option<&Node> {
        self.nodes.get(&ObjectName::new("", &self.node_name))
    }

    /// The health checks of all Services, by Service and family, as of the last [`Model::desired`]. Kept up with
    /// each change: reading it costs nothing.
    pub fn health_checks(&self) -> &BTreeMap<(ObjectName, Family), HealthCheck> {
        &self.health_checks
    }

    /// What the changes since the last call ask for; empty while not [`Model::ready`]. The first is complete.
    pub fn desired(&mut self) -> Desired {
        let mut desired = Desired::default();
        if !self.ready() {
            return desired;
        }
        desired.complete = std::mem::take(&mut self.complete);
        if desired.complete {
            self.dirty.extend(self.services.names().cloned());
        }
        for name in std::mem::take(&mut self.dirty) {
            let ports = self.decide(&name);
            let before = self.known.remove(&name).unwrap_or_default();
            desired.services.extend(before.into_iter().map(|port| (port, None)));
            if !ports.is_empty() {
                self.known.insert(name, ports.keys().cloned().collect());
            }
            desired.services.extend(ports.into_iter().map(|(port, desired)| (port, Some(desired))));
        }
        desired
    }

    /// The tables are no longer known: the next [`Model::desired`] is complete.
    pub fn resync(&mut self) {
        self.complete = true;
    }

    /// When the changes of endpoints began that came since the last call, where the controller says so: one for each
    /// slice whose endpoints or ports are others (k/k pkg/proxy/endpointschangetracker.go).
    pub fn take_triggers(&mut self) -> Vec<(Family, Timestamp)> {
        std::mem::take(&mut self.triggers)
    }

    /// Notices that began since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.board.take_news()
    }

    /// All notices that last.
    pub fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.board.current()
    }

    /// Says which object could not be decoded, until it can be, is gone, or a full list begins.
    fn note_broken<Object: Named>(&mut self, kind: Kind, change: &Change<Object>) {
        let (name, reason) = match change {
            Change::Broken(name, reason) => (name, Some(reason)),
            Change::Apply(object) => (object.object_name(), None),
            Change::Delete(name) => (name, None),
            Change::Init => {
                let ended: Vec<Subject> =
                    self.broken.iter().filter(|subject| subject.kind == kind).cloned().collect();
                for subject in ended {
                    self.broken.remove(&subject);
                    self.board.replace(Source::Undecoded(subject), []);
                }
                return;
            }
            Change::InitDone => return,
        };
        let subject = Subject { kind, name: name.clone() };
        if let Some(reason) = reason {
            let notice = Notice {
                severity: Severity::Error,
                subject: Some(subject.clone()),
                file: None,
                text: format!("cannot be decoded: {reason}; what was last known of it stays in force"),
            };
            self.broken.insert(subject.clone());
            self.board.replace(Source::Undecoded(subject), [notice]);
        } else if !self.broken.is_empty() && self.broken.remove(&subject) {
            self.board.replace(Source::Undecoded(subject), []);
        }
    }

    fn service_changed(&mut self, name: ObjectName) {
        let service = self.services.get(&name);
        self.dirty.extend(self.claims.replace(&name, service));
        self.dirty.insert(name.clone());
        let notices =
            service.map(|s| notices(Kind::Service, &name, &s.file, &s.problems)).unwrap_or_default();
        self.board.replace(Source::Object(Subject { kind: Kind::Service, name }), notices);
    }

    fn slice_changed(&mut self, name: ObjectName, before: Option<&Slice>) {
        let slice = self.slices.get(&name);
        if let Some(owner) = before.and_then(Slice::owner) {
            if let Some(slices) = self.slices_of.get_mut(&owner) {
                slices.remove(&name);
                if slices.is_empty() {
                    self.slices_of.remove(&owner);
                }
            }
            self.dirty.insert(owner);
        }
        if let Some(owner) = slice.and_then(Slice::owner) {
            self.slices_of.entry(owner.clone()).or_default().insert(name.clone());
            self.dirty.insert(owner);
        }
        if let Some(slice) = slice
            && before.is_none_or(|before| before.endpoints != slice.endpoints || before.ports != slice.ports)
        {
            self.triggers.extend(slice.family.zip(slice.trigger_time));
        }
        let notices =
            slice.map(|s| notices(Kind::EndpointSlice, &name, &s.file, &s.problems)).unwrap_or_default();
        self.board.replace(Source::Object(Subject { kind: Kind::EndpointSlice, name }), notices);
    }

    /// The service ports of one Service, from the objects alone.
    fn decide(&mut self, name: &ObjectName) -> BTreeMap<ServicePortName, DesiredPort> {
        let slices: Vec<&Slice> = self
            .slices_of
            .get(name)
            .into_iter()
            .flatten()
            .filter_map(|slice| self.slices.get(slice))
            .collect();
        let mut ports = BTreeMap::new();
        let mut problems = Vec::new();
        let service = self.services.get(name);
        for family in Family::BOTH {
            self.health_checks.remove(&(name.clone(), family));
        }
        for family in service.into_iter().flat_map(Service::health_check_families) {
            let check = HealthCheck {
                port: service.map(|service| service.health_check_node_port).unwrap_or_default(),
                local_endpoints: endpoints::local_ready(&slices, family, &self.node_name),
            };
            self.health_checks.insert((name.clone(), family), check);
        }
        match service {
            None if !slices.is_empty() => problems
                .push(Problem::new(Severity::Info, "EndpointSlices name this Service, but there is none")),
            None => {}
            Some(service) if service.ports.is_empty() => {}
            Some(service) => {
                if slices.is_empty() {
                    problems.push(Problem::new(
                        Severity::Warning,
                        "no EndpointSlice names this Service: it has no endpoint",
                    ));
                }
                let zone = self.node().and_then(|node| node.zone.as_deref());
                let place = Place { node: &self.node_name, zone };
                for claim in service.claims() {
                    match self.claims.winner(&claim.key) {
                        Some(winner) if winner != &claim => problems.push(conflict(&claim, winner)),
                        _ => {
                            let port = ports
                                .entry(claim.port.clone())
                                .or_insert_with(|| policy::port(service, &claim.port, &slices, place));
                            port.frontends.insert(claim.key, claim.kind);
                        }
                    }
                }
                problems.extend(endpoints::unmatched_ports(service, &slices));
            }
        }
        let file = service.and_then(|service| service.file.clone());
        self.board.replace(Source::Service(name.clone()), notices(Kind::Service, name, &file, &problems));
        ports
    }
}

fn conflict(claim: &Claim, winner: &Claim) -> Problem {
    let address = std::net::SocketAddr::new(claim.key.addr.into(), claim.key.port.host());
    let (port, owner) = (&claim.port, &winner.port);
    Problem::new(
        Severity::Error,
        format!(
            "port \"{}\": {address}/{} belongs to port \"{}\" of Service {}/{}, which is older or first by name",
            port.port, port.proto, owner.port, owner.namespace, owner.name,
        ),
    )
}

fn notices(
    kind: Kind,
    name: &ObjectName,
    file: &Option<std::sync::Arc<str>>,
    problems: &[Problem],
) -> Vec<Notice> {
    let subject = Subject { kind, name: name.clone() };
    problems
        .iter()
        .map(|problem| Notice {
            severity: problem.severity,
            subject: Some(subject.clone()),
            file: file.clone(),
            text: problem.text.clone(),
        })
        .collect()
}
