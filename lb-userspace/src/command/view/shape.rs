//! A Service port as `lb services` shows it, from the tables or from files.

use lb_common::{Algorithm, FrontendKey, FrontendKind, ServiceRecord};
use serde::Serialize;

use crate::desired::outcome::{Client, Outcome};
use crate::objects::name::ServicePortName;
use crate::objects::wire::authority;

/// One Service port of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    pub namespace: String,
    pub name: String,
    /// Empty if the Service has one unnamed port.
    pub port_name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    pub frontends: Vec<FrontendView>,
    /// `address:port`, sorted.
    pub cluster_endpoints: Vec<String>,
    /// `address:port`, sorted; only endpoints of this node. Empty unless a policy needs them.
    pub local_endpoints: Vec<String>,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: String,
    /// `Cluster` or `Local`.
    pub external_traffic_policy: String,
    pub session_affinity: AffinityView,
    pub algorithm: String,
    /// Only in a view from files.
    #[serde(flatten)]
    pub rules: Option<RulesView>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FrontendView {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalIP`.
    pub kind: String,
    /// `address:port`; the unspecified address for a NodePort.
    pub address: String,
    pub clients: ClientsView,
}

/// What a new connection gets, by the place of its client: `cluster` or `local` (an endpoint of that set), `reject` or
/// `drop`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ClientsView {
    /// A pod of this node.
    pub pod: String,
    /// A process of this node.
    pub host: String,
    /// Anywhere else.
    pub outside: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AffinityView {
    /// `None` or `ClientIP`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Seconds; null for `None`.
    pub timeout_seconds: Option<u32>,
}

/// What the tables in the kernel do not say about a Service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RulesView {
    /// Prefixes of the clients that may use frontends of kind `LoadBalancer`; empty means all.
    pub source_ranges: Vec<String>,
    /// Whether the addresses of these frontends are allowed as clients too, because the node's address is.
    pub source_ranges_admit_vips: bool,
    /// The addresses of the node on which the `NodePort` answers, sorted, without loopback; empty without a `NodePort`.
    pub node_port_addresses: Vec<String>,
    /// Whether the `NodePort` also answers on loopback addresses, for processes of the node.
    pub node_port_on_loopback: bool,
    /// Null if load balancers are not to ask.
    pub health_check: Option<HealthCheckView>,
    /// `headless`, `ExternalName`, `other proxy` or `unusable`; null for a Service that is served.
    pub unserved: Option<String>,
    /// What is ignored or wrong in the Service and its EndpointSlices, and why.
    pub notices: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheckView {
    /// `healthCheckNodePort`.
    pub port: u16,
    /// Addresses with a ready endpoint on this node.
    pub local_endpoints: usize,
}

impl ServiceView {
    /// `record` describes the service port except for its endpoints, which are `address:port`, sorted.
    pub(crate) fn new(
        name: &ServicePortName,
        record: &ServiceRecord,
        mut frontends: Vec<FrontendView>,
        cluster_endpoints: Vec<String>,
        local_endpoints: Vec<String>,
    ) -> Self {
        frontends.sort();
        Self {
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            port_name: name.port.to_string(),
            protocol: name.proto.to_string(),
            family: name.family.to_string(),
            frontends,
            cluster_endpoints,
            local_endpoints,
            internal_traffic_policy: policy(record.flags, ServiceRecord::INTERNAL_LOCAL),
            external_traffic_policy: policy(record.flags, ServiceRecord::EXTERNAL_LOCAL),
            session_affinity: affinity(record.affinity_timeout),
            algorithm: algorithm(record.algorithm),
            rules: None,
        }
    }
}

/// `has_sets` says whether the Cluster set and the Local set have endpoints.
pub(crate) fn frontend(
    key: &FrontendKey,
    kind: FrontendKind,
    flags: u32,
    has_sets: (bool, bool),
) -> FrontendView {
    let outcome = |client| Outcome::new(flags, has_sets.0, has_sets.1, kind, client).to_string();
    FrontendView {
        kind: kind_name(kind).to_owned(),
        address: authority(key.addr, key.port),
        clients: ClientsView {
            pod: outcome(Client::Pod),
            host: outcome(Client::Host),
            outside: outcome(Client::Outside),
        },
    }
}

impl ClientsView {
    /// Names the host and the outside only if they get something other than a pod.
    pub(crate) fn text(&self) -> String {
        let inside = if self.pod == self.host {
            self.pod.clone()
        } else {
            format!("{}, host {}", self.pod, self.host)
        };
        if self.outside == self.pod { inside } else { format!("{inside}, outside {}", self.outside) }
    }
}

fn policy(flags: u32, flag: u32) -> String {
    if flags & flag != 0 { "Local" } else { "Cluster" }.to_owned()
}

pub(crate) fn affinity(timeout: u32) -> AffinityView {
    match timeout {
        0 => AffinityView { kind: "None".to_owned(), timeout_seconds: None },
        seconds => AffinityView { kind: "ClientIP".to_owned(), timeout_seconds: Some(seconds) },
    }
}

pub(crate) fn algorithm(algorithm: u8) -> String {
    match Algorithm::from_number(algorithm) {
        Some(Algorithm::Random) => "random".to_owned(),
        None => format!("unknown ({algorithm})"),
    }
}

const fn kind_name(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::Cluster => "ClusterIP",
        FrontendKind::NodePort => "NodePort",
        FrontendKind::LoadBalancer => "LoadBalancer",
        FrontendKind::External => "ExternalIP",
    }
}
