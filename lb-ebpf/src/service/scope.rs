//! What a frontend offers to a client inside the cluster: a pod of this node, or a process of its host. The internal
//! policy holds for ClusterIPs, and no policy for the other kinds (k/k pkg/proxy/iptables/proxier.go, "pod -> external
//! VIP" short circuit).

use lb_common::{Addr, Backend, Frontend, FrontendKind, ServiceRecord, Slot};

use super::affinity::Sticky;
use super::select;

/// Why there is no backend.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// No node has an endpoint.
    NoEndpoint,
    /// The policy is Local, and the endpoints are on other nodes.
    NoLocalEndpoint,
}

/// A backend for a new connection of `client`, whose affinity counts.
#[inline(always)]
pub fn choose(
    frontend: &Frontend,
    record: &ServiceRecord,
    client: Addr,
) -> Result<(Slot, &'static Backend), Lack> {
    let local = frontend.is(FrontendKind::Cluster) && record.flags & ServiceRecord::INTERNAL_LOCAL != 0;
    let (range, set) =
        if local { (record.local, Backend::IN_LOCAL) } else { (record.cluster, Backend::IN_CLUSTER) };
    let chosen = if record.affinity_timeout == 0 {
        select::random(range)
    } else {
        Sticky::new(client, frontend.service, record.affinity_timeout, range, set).choose()
    };
    let elsewhere = local && record.flags & ServiceRecord::HAS_ENDPOINTS != 0;
    chosen.ok_or(if elsewhere { Lack::NoLocalEndpoint } else { Lack::NoEndpoint })
}
