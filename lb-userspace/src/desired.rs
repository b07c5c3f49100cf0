//! What the tables ought to say about service ports, before ids are given out.

pub mod outcome;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{Addr, Algorithm, BackendState, Endpoint, FrontendKey, FrontendKind, Prefix};

use crate::objects::name::ServicePortName;

/// The desired state of the service ports that changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// `None` where a service port is not to be programmed (any more).
    pub services: BTreeMap<ServicePortName, Option<DesiredPort>>,
    /// These are all services there are: what the tables hold beyond them goes away.
    pub complete: bool,
    /// The node's own addresses that NodePorts answer on, all of them. `None`: as they are.
    pub node_addresses: Option<BTreeSet<Addr>>,
    /// `None`: as they are.
    pub service_ranges: Option<ServiceRanges>,
}

impl Desired {
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
            && !self.complete
            && self.node_addresses.is_none()
            && self.service_ranges.is_none()
    }
}

/// Where ClusterIPs are, beside those of the services.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceRanges {
    /// ServiceCIDRs: what goes to an address of theirs that no Service has is dropped. Those without
    /// [blocks](Prefix::has_blocks) are left out.
    pub cidrs: BTreeSet<Prefix>,
    /// ClusterIPs that another proxy serves: they are left alone.
    pub others: BTreeSet<Addr>,
}

/// One service port of one family, decided: policy, topology, readiness and termination are applied.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredPort {
    /// Where clients connect to. Never empty. A NodePort stands under the unspecified address of its family
    /// ([`Family::unspecified`](crate::objects::name::Family::unspecified)).
    pub frontends: BTreeMap<FrontendKey, FrontendKind>,
    /// The endpoints for a Cluster policy.
    pub cluster: BTreeSet<Endpoint>,
    /// The endpoints of this node for a Local policy.
    pub local: BTreeSet<Endpoint>,
    /// Every endpoint that may have flows: those of the sets, and those that only keep theirs.
    pub backends: BTreeMap<Endpoint, BackendShare>,
    /// `ServiceRecord::INTERNAL_LOCAL` and its siblings.
    pub flags: u32,
    pub algorithm: Algorithm,
    /// Seconds; 0 is no affinity.
    pub affinity_timeout: u32,
    /// The clients that may use frontends of kind `LoadBalancer`; empty is all. The planner makes
    /// `ServiceRecord::SOURCE_RANGES` of it.
    pub source_ranges: BTreeSet<Prefix>,
}

/// What a backend takes of the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendShare {
    pub state: BackendState,
    /// Relative share of new flows, for weighted algorithms.
    pub weight: u16,
}
