//! The outcome of a new connection through a frontend, which depends on where the client is.
//!
//! The two sets already reflect policy, topology, readiness and termination; only the client's place remains. The rules
//! are those of k/k pkg/proxy/nftables/proxier.go and pkg/proxy/iptables/proxier.go, which agree.

use std::fmt;

use lb_common::{FrontendKind, ServiceRecord};

use super::DesiredPort;

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// A pod of this node.
    Pod,
    /// A process of this node, or a pod on the host network.
    Host,
    /// Anywhere else, including pods of other nodes.
    Outside,
}

impl Client {
    pub const ALL: [Self; 3] = [Self::Pod, Self::Host, Self::Outside];
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// An endpoint of the Cluster set.
    Cluster,
    /// An endpoint of the Local set.
    Local,
    /// No endpoint anywhere: refused at once.
    Reject,
    /// The policy is Local, and only other nodes have endpoints: dropped, so that a load balancer that is about to stop
    /// using this node tries another one. (kube-proxy in IPVS mode uses the Cluster set instead.)
    Drop,
}

impl Outcome {
    /// Decides from `ServiceRecord::flags` and from whether each of the two sets has endpoints.
    pub const fn new(
        flags: u32,
        has_cluster: bool,
        has_local: bool,
        kind: FrontendKind,
        client: Client,
    ) -> Self {
        let is_local = match (kind, client) {
            (FrontendKind::Cluster, _) => flags & ServiceRecord::INTERNAL_LOCAL != 0,
            // From inside the cluster, an external address works on every node, as if the packet went out to a load
            // balancer and came back: externalTrafficPolicy does not apply.
            (_, Client::Pod | Client::Host) => false,
            (_, Client::Outside) => flags & ServiceRecord::EXTERNAL_LOCAL != 0,
        };
        match (flags & ServiceRecord::HAS_ENDPOINTS != 0, is_local) {
            (false, _) => Self::Reject,
            (true, false) if has_cluster => Self::Cluster,
            (true, true) if has_local => Self::Local,
            (true, _) => Self::Drop,
        }
    }

    pub fn of(port: &DesiredPort, kind: FrontendKind, client: Client) -> Self {
        Self::new(port.flags, !port.cluster.is_empty(), !port.local.is_empty(), kind, client)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Self::Cluster => "cluster",
            Self::Local => "local",
            Self::Reject => "reject",
            Self::Drop => "drop",
        })
    }
}
