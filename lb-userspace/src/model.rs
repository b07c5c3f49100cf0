//! What the sources delivered, and what follows from it for each Service. Pure: no clock, no I/O, nothing awaited.

mod changes;
mod claims;
mod decide;
mod endpoints;
mod frontends;
pub mod lookup;
mod node_ports;
mod policy;
mod rules;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use lb_common::{Addr, Port, Prefix};

pub use frontends::Unserved;
pub use node_ports::NodePortAddresses;
pub use rules::{ExternalIpCidrs, Rules, ServiceCidrs};

use crate::desired::{Desired, DesiredPort, ServiceRanges};
use crate::objects::cidr::ServiceCidr;
use crate::objects::event::{Change, Event};
use crate::objects::name::{Family, Kind, ObjectName, ServicePortName, Subject};
use crate::objects::node::Node;
use crate::objects::notice::{Board, Notice};
use crate::objects::service::Service;
use crate::objects::slice::Slice;
use claims::Claims;
use store::Store;

/// The objects in force, and the Services that a change of them touched.
#[derive(Clone, Debug)]
pub struct Model {
    node_name: Arc<str>,
    rules: Rules,
    services: Store<Service>,
    slices: Store<Slice>,
    nodes: Store<Node>,
    cidrs: Store<ServiceCidr>,
    /// Pairs of Service and slice: the slices of each Service.
    slices_of: BTreeSet<(ObjectName, ObjectName)>,
    claims: Claims,
    /// Services to decide again.
    dirty: BTreeSet<ObjectName>,
    /// The service ports of the last desired state.
    known: BTreeSet<ServicePortName>,
    health_checks: BTreeMap<(ObjectName, Family), HealthCheck>,
    /// The addresses of the node's interfaces; `None` until they are reported.
    addresses: Option<BTreeSet<Addr>>,
    /// Whether to decide again which of these addresses NodePorts answer on.
    addresses_changed: bool,
    /// ClusterIPs of Services that another proxy serves.
    others: BTreeSet<(Addr, ObjectName)>,
    /// Whether `others` or the ServiceCIDRs differ from those last desired.
    ranges_changed: bool,
    /// Whether the next [`Desired`] is to be complete.
    complete: bool,
    /// Objects whose newest state could not be decoded.
    broken: BTreeSet<Subject>,
    /// The start times of changes of endpoints that [`Model::take_triggers`] has not returned yet.
    triggers: Vec<(Family, Timestamp)>,
    board: Board<NoticeOrigin>,
}

/// The health check that load balancers may query for a Service of type LoadBalancer whose externalTrafficPolicy is
/// Local.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `healthCheckNodePort`.
    pub port: Port,
    /// Number of addresses with a ready endpoint on this node. Terminating endpoints do not count, although they still
    /// serve, so that a load balancer turns away in time (k/k pkg/proxy/healthcheck/service_health.go).
    pub local_endpoints: usize,
}

/// Where a notice comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NoticeOrigin {
    File(Arc<str>),
    /// The object as it was read.
    Object(Subject),
    /// The object as it was received, if it could not be decoded.
    Undecoded(Subject),
    /// A Service together with the other objects.
    Service(ObjectName),
}

impl Model {
    /// `node_name` is the name of the agent's own Node. It decides which endpoints are local.
    pub fn new(node_name: impl Into<Arc<str>>) -> Self {
        Self::with_rules(node_name, Rules::default())
    }

    /// Like [`Model::new`], with the rules of the command line.
    pub fn with_rules(node_name: impl Into<Arc<str>>, rules: Rules) -> Self {
        Self {
            node_name: node_name.into(),
            rules,
            services: Store::default(),
            slices: Store::default(),
            nodes: Store::default(),
            cidrs: Store::default(),
            slices_of: BTreeSet::new(),
            claims: Claims::default(),
            dirty: BTreeSet::new(),
            known: BTreeSet::new(),
            health_checks: BTreeMap::new(),
            addresses: None,
            addresses_changed: false,
            others: BTreeSet::new(),
            ranges_changed: false,
            complete: true,
            broken: BTreeSet::new(),
            triggers: Vec::new(),
            board: Board::default(),
        }
    }

    /// Takes in what a source delivered.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Service(change) => {
                self.note_broken(Kind::Service, &change);
                for (name, before) in self.services.apply(change) {
                    self.service_changed(name, before.as_deref());
                }
            }
            Event::Slice(change) => {
                self.note_broken(Kind::EndpointSlice, &change);
                for (name, before) in self.slices.apply(change) {
                    self.slice_changed(name, before.as_deref());
                }
            }
            Event::Node(change) => {
                self.note_broken(Kind::Node, &change);
                if matches!(&change, Change::Apply(node) if node.name.name != self.node_name) {
                    return;
                }
                for (_, before) in self.nodes.apply(change) {
                    self.node_changed(before.as_deref());
                }
            }
            Event::ServiceCidr(change) => {
                self.note_broken(Kind::ServiceCidr, &change);
                self.ranges_changed |= !self.cidrs.apply(change).is_empty();
            }
            Event::Addresses(addresses) => {
                self.addresses_changed |= self.addresses.as_ref() != Some(&addresses);
                self.addresses = Some(addresses);
            }
            Event::File { file, notices } => self.board.replace(NoticeOrigin::File(file), notices),
        }
    }

    /// Whether every kind that Services depend on has delivered its first full list. Nothing is desired earlier.
    pub fn ready(&self) -> bool {
        self.services.is_synced() && self.slices.is_synced() && self.nodes.is_synced()
    }

    /// The agent's own Node; `None` while the object does not exist.
    pub fn node(&self) -> Option<&Node> {
        self.nodes.get(&ObjectName::new("", self.node_name.clone()))
    }

    /// The health checks of all Services, by Service and family, as of the last [`Model::desired`]. They are updated
    /// with each change, so reading them costs nothing.
    pub fn health_checks(&self) -> &BTreeMap<(ObjectName, Family), HealthCheck> {
        &self.health_checks
    }

    /// The node's addresses that NodePorts answer on, in the shape of [`Desired::node_addresses`].
    pub fn node_port_addresses(&self) -> Option<BTreeSet<Addr>> {
        let addresses = self.addresses.as_ref()?;
        Some(self.rules.node_port_addresses.select(addresses, self.node()))
    }

    /// The ranges of ClusterIPs, and the ClusterIPs of Services that another proxy serves.
    fn service_ranges(&self) -> ServiceRanges {
        let cidrs = self.cidrs.iter().flat_map(|(_, cidr)| &cidr.prefixes);
        let cidrs = cidrs.map(|net| Prefix::new(net.addr(), net.prefix_len()));
        ServiceRanges {
            cidrs: cidrs.chain(self.rules.service_cidrs.prefixes()).collect(),
            others: self.others.iter().map(|(addr, _)| *addr).collect(),
        }
    }

    /// What the changes since the last call ask for; empty until the model is [`Model::ready`]. The first result is
    /// complete.
    pub fn desired(&mut self) -> Desired {
        let mut desired = Desired::default();
        if !self.ready() {
            return desired;
        }
        desired.complete = std::mem::take(&mut self.complete);
        if desired.complete {
            self.dirty.extend(self.services.names().cloned());
        }
        if std::mem::take(&mut self.addresses_changed) || desired.complete {
            desired.node_addresses = self.node_port_addresses();
        }
        // Services do not wait for ServiceCIDRs: what an earlier agent knew of them stays until their list is complete.
        self.ranges_changed |= desired.complete;
        if self.cidrs.is_synced() && std::mem::take(&mut self.ranges_changed) {
            desired.service_ranges = Some(self.service_ranges());
        }
        for name in std::mem::take(&mut self.dirty) {
            let decided = self.decide(&name);
            self.note_health(&name);
            self.say(&name, &decided.problems);
            for port in self.known_of(&name) {
                self.known.remove(&port);
                desired.services.insert(port, None);
            }
            for (port, wanted) in decided.ports.into_iter().filter(|(_, port)| !port.frontends.is_empty()) {
                self.known.insert(port.clone());
                desired.services.insert(port, Some(wanted));
            }
        }
        desired
    }

    /// Makes the next [`Model::desired`] complete. Call this when the tables are no longer known.
    pub fn resync(&mut self) {
        self.complete = true;
    }

    /// The start times of the changes of endpoints since the last call, as far as the controller reports them: one for
    /// each slice whose endpoints or ports changed (k/k pkg/proxy/endpointschangetracker.go).
    pub fn take_triggers(&mut self) -> Vec<(Family, Timestamp)> {
        std::mem::take(&mut self.triggers)
    }

    /// Notices that began since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.board.take_news()
    }

    /// All notices that still hold.
    pub fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.board.current()
    }

    /// What the command line says about all Services.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// All Services, sorted by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().map(|(_, service)| service)
    }

    /// The service ports of one Service, including ports that lost all frontends to other Services.
    pub fn decided(&self, name: &ObjectName) -> BTreeMap<ServicePortName, DesiredPort> {
        self.decide(name).ports
    }

    /// The notices that still hold for a Service and for its EndpointSlices.
    pub fn notices_of(&self, name: &ObjectName) -> impl Iterator<Item = &Notice> {
        let subject = Subject { kind: Kind::Service, name: name.clone() };
        let slices = self.slices_of(name).into_iter().map(|slice| {
            NoticeOrigin::Object(Subject { kind: Kind::EndpointSlice, name: slice.name.clone() })
        });
        let sources =
            [NoticeOrigin::Object(subject), NoticeOrigin::Service(name.clone())].into_iter().chain(slices);
        sources.flat_map(|source| self.board.of(&source))
    }
}
