//! What a client inside the cluster gets from a frontend: a pod of this node, or a process of its host. The internal
//! policy is for ClusterIPs, and no policy for the rest (k/k pkg/proxy/iptables/proxier.go, "pod -> external VIP" short
//! circuit).

use lb_common::{Addr, Backend, Frontend, FrontendKind, ServiceRecord, Slot};

use super::affinity::Sticky;
use super::select;

/// Why there is no backend.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Nowhere is an endpoint.
    NoEndpoint,
    /// A Local policy, and the endpoints are elsewhere.
    NoLocalEndpoint,
}

/// A backend for a new connection; `client` is whose affinity counts.
#[inline(always)]
pub fn choose(
    frontend: &Frontend,
    record: &ServiceRecord,
    client: Addr,
) -> Result<(Slot, &'static Backend), Lack> {
    let local =
        frontend.kind == FrontendKind::Cluster as u8 && record.flags & ServiceRecord::INTERNAL_LOCAL != 0;
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
