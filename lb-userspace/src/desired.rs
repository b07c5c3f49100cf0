//! The desired content of the tables for service ports, before ids are assigned.

pub mod outcome;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{Addr, Algorithm, BackendState, Endpoint, FrontendKey, FrontendKind, Prefix};

use crate::objects::name::ServicePortName;

/// The desired state of the service ports that changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// `None`: the service port is not, or no longer, to be programmed.
    pub services: BTreeMap<ServicePortName, Option<DesiredPort>>,
    /// `services` lists every service port: whatever else the tables hold is removed.
    pub complete: bool,
    /// All of the node's own addresses on which NodePorts answer. `None`: unchanged.
    pub node_addresses: Option<BTreeSet<Addr>>,
    /// `None`: unchanged.
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

/// Ranges and addresses of ClusterIPs, in addition to those of the service ports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceRanges {
    /// ServiceCIDRs: traffic to an address in one of them that no Service has is dropped. The planner leaves out ranges
    /// without [blocks](Prefix::has_blocks).
    pub cidrs: BTreeSet<Prefix>,
    /// ClusterIPs that another proxy serves; traffic to them is left alone.
    pub others: BTreeSet<Addr>,
}

/// One service port of one family, to which policy, topology, readiness and termination have been applied.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredPort {
    /// The addresses to which clients connect. Never empty. A NodePort has the unspecified address of its family
    /// ([`Family::unspecified`](crate::objects::name::Family::unspecified)).
    pub frontends: BTreeMap<FrontendKey, FrontendKind>,
    /// The endpoints for a Cluster policy.
    pub cluster: BTreeSet<Endpoint>,
    /// The endpoints on this node, for a Local policy.
    pub local: BTreeSet<Endpoint>,
    /// Every endpoint that may have flows: the members of both sets, and those that only keep their flows.
    pub backends: BTreeMap<Endpoint, BackendShare>,
    /// `ServiceRecord::INTERNAL_LOCAL` and its siblings.
    pub flags: u32,
    pub algorithm: Algorithm,
    /// Seconds; 0 means no affinity.
    pub affinity_timeout: u32,
    /// The clients that may use frontends of kind `LoadBalancer`; an empty set admits all. The planner derives
    /// `ServiceRecord::SOURCE_RANGES` from the set.
    pub source_ranges: BTreeSet<Prefix>,
}

/// How a backend takes part in the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendShare {
    pub state: BackendState,
    /// Relative share of new flows, for weighted algorithms.
    pub weight: u16,
}
