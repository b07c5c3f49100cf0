//! What the sources said, and what follows from it for each Service. Pure: no clock, no I/O, nothing awaited.

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

/// The objects in force, and which Services a change of them touched.
#[derive(Clone, Debug)]
pub struct Model {
    node_name: Arc<str>,
    rules: Rules,
    services: Store<Service>,
    slices: Store<Slice>,
    nodes: Store<Node>,
    cidrs: Store<ServiceCidr>,
    /// Service and slice: which slices a Service has.
    slices_of: BTreeSet<(ObjectName, ObjectName)>,
    claims: Claims,
    /// Services to be decided anew.
    dirty: BTreeSet<ObjectName>,
    /// What was last desired.
    known: BTreeSet<ServicePortName>,
    health_checks: BTreeMap<(ObjectName, Family), HealthCheck>,
    /// Those of the node's interfaces; `None` while nobody said.
    addresses: Option<BTreeSet<Addr>>,
    /// Which of them NodePorts answer on is to be decided anew.
    addresses_changed: bool,
    /// ClusterIPs of Services that another proxy serves.
    others: BTreeSet<(Addr, ObjectName)>,
    /// They, or the ServiceCIDRs, are others than last desired.
    ranges_changed: bool,
    /// The next [`Desired`] is to be complete.
    complete: bool,
    /// Objects whose newest state could not be decoded.
    broken: BTreeSet<Subject>,
    /// When the changes of endpoints began that were not asked for yet.
    triggers: Vec<(Family, Timestamp)>,
    board: Board<NoticeOrigin>,
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
enum NoticeOrigin {
    File(Arc<str>),
    /// The object as it was read.
    Object(Subject),
    /// The object as it came, where it could not be decoded.
    Undecoded(Subject),
    /// A Service among the other objects.
    Service(ObjectName),
}

impl Model {
    /// `node_name` is the name of the agent's own Node: it says which endpoints are local.
    pub fn new(node_name: impl Into<Arc<str>>) -> Self {
        Self::with_rules(node_name, Rules::default())
    }

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

    /// Every kind that Services hang on has delivered its first full list. Nothing is desired before.
    pub fn ready(&self) -> bool {
        self.services.is_synced() && self.slices.is_synced() && self.nodes.is_synced()
    }

    /// The agent's own Node; `None` while there is no such object.
    pub fn node(&self) -> Option<&Node> {
        self.nodes.get(&ObjectName::new("", self.node_name.clone()))
    }

    /// The health checks of all Services, by Service and family, as of the last [`Model::desired`]. Kept up with
    /// each change: reading it costs nothing.
    pub fn health_checks(&self) -> &BTreeMap<(ObjectName, Family), HealthCheck> {
        &self.health_checks
    }

    /// The node's addresses that NodePorts answer on, in the shape of [`Desired::node_addresses`].
    pub fn node_port_addresses(&self) -> Option<BTreeSet<Addr>> {
        let addresses = self.addresses.as_ref()?;
        Some(self.rules.node_port_addresses.select(addresses, self.node()))
    }

    /// Where ClusterIPs are, beside those of the Services that are served.
    fn service_ranges(&self) -> ServiceRanges {
        let cidrs = self.cidrs.iter().flat_map(|(_, cidr)| &cidr.prefixes);
        let cidrs = cidrs.map(|net| Prefix::new(net.addr(), net.prefix_len()));
        ServiceRanges {
            cidrs: cidrs.chain(self.rules.service_cidrs.prefixes()).collect(),
            others: self.others.iter().map(|(addr, _)| *addr).collect(),
        }
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
        if std::mem::take(&mut self.addresses_changed) || desired.complete {
            desired.node_addresses = self.node_port_addresses();
        }
        // Services are served without ServiceCIDRs; what an earlier agent knew of them stays until their list is whole.
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

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Sorted by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().map(|(_, service)| service)
    }

    /// The service ports of one Service, also one that lost all its frontends to others.
    pub fn decided(&self, name: &ObjectName) -> BTreeMap<ServicePortName, DesiredPort> {
        self.decide(name).ports
    }

    /// The notices that last, of a Service and of its EndpointSlices.
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
