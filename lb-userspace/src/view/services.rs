//! `lb services`.

use lb_common::{Algorithm, FrontendKey, FrontendKind, ServiceRecord, SlotRange};
use serde::Serialize;

use super::columns;
use super::rules::RulesView;
use crate::desired::outcome::{Client, Outcome};
use crate::objects::name::ServicePortName;
use crate::objects::wire::authority;
use crate::tables::Tables;

/// One Service port of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    pub namespace: String,
    pub name: String,
    /// Empty where the Service has one unnamed port.
    pub port_name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    pub frontends: Vec<FrontendView>,
    /// `address:port`, sorted.
    pub cluster_endpoints: Vec<String>,
    /// `address:port`, sorted; those of this node. Only filled where a policy needs them.
    pub local_endpoints: Vec<String>,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: String,
    /// `Cluster` or `Local`.
    pub external_traffic_policy: String,
    pub session_affinity: AffinityView,
    pub algorithm: String,
    /// Only from files.
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

/// What a new connection gets, by where its client is: `cluster` or `local` (an endpoint of that set), `reject` or
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

/// Every service in the tables, sorted by name. An id whose name cannot be read is left out.
pub fn services(tables: &Tables) -> Vec<ServiceView> {
    let mut frontends: std::collections::BTreeMap<u32, Vec<FrontendView>> = std::collections::BTreeMap::new();
    for (key, entry) in &tables.frontends {
        let record = tables.record(entry.service);
        let has_sets = (record.cluster.len > 0, record.local.len > 0);
        // One of an unknown kind is of a newer version: at least its address is told.
        let kind = FrontendKind::from_u8(entry.kind).unwrap_or(FrontendKind::Cluster);
        let view = frontend(key, kind, record.flags, has_sets);
        frontends.entry(entry.service).or_default().push(view);
    }
    let mut named: Vec<(ServicePortName, u32)> = tables
        .names
        .iter()
        .filter_map(|(id, name)| Some((ServicePortName::from_table(name)?, *id)))
        .collect();
    named.sort();
    named
        .into_iter()
        .map(|(name, id)| view(tables, name, id, frontends.remove(&id).unwrap_or_default()))
        .collect()
}

/// The table of `lb services`, with a line for each endpoint.
pub fn service_table(services: &[ServiceView]) -> String {
    let rows: Vec<[String; 9]> = services
        .iter()
        .map(|service| {
            let unserved = service.rules.as_ref().and_then(|rules| rules.unserved.as_ref());
            let frontends: Vec<String> = match unserved {
                Some(why) => vec![format!("not served: {why}")],
                None => service.frontends.iter().map(|f| format!("{} {}", f.kind, f.address)).collect(),
            };
            let clients: Vec<String> = service.frontends.iter().map(|f| f.clients.text()).collect();
            let affinity = match service.session_affinity.timeout_seconds {
                Some(seconds) => format!("{} {seconds}s", service.session_affinity.kind),
                None => "-".to_owned(),
            };
            let policy = format!("{}/{}", service.internal_traffic_policy, service.external_traffic_policy);
            let port = if service.port_name.is_empty() { "-" } else { &service.port_name };
            [
                format!("{}/{}", service.namespace, service.name),
                format!("{port} {}", service.protocol),
                columns::list(&frontends),
                columns::list(&clients),
                columns::list(&service.cluster_endpoints),
                columns::list(&service.local_endpoints),
                policy,
                affinity,
                service.algorithm.clone(),
            ]
        })
        .collect();
    columns::render(
        [
            "SERVICE",
            "PORT",
            "FRONTENDS",
            "CLIENTS GET",
            "ENDPOINTS",
            "LOCAL",
            "POLICY INT/EXT",
            "AFFINITY",
            "ALGORITHM",
        ],
        &rows,
    )
}

fn view(tables: &Tables, name: ServicePortName, id: u32, mut frontends: Vec<FrontendView>) -> ServiceView {
    let record = tables.record(id);
    frontends.sort();
    ServiceView {
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        port_name: name.port.to_string(),
        protocol: name.proto.to_string(),
        family: name.family.to_string(),
        frontends,
        cluster_endpoints: endpoints(tables, record.cluster),
        local_endpoints: endpoints(tables, record.local),
        internal_traffic_policy: policy(record.flags, ServiceRecord::INTERNAL_LOCAL),
        external_traffic_policy: policy(record.flags, ServiceRecord::EXTERNAL_LOCAL),
        session_affinity: affinity(record.affinity_timeout),
        algorithm: algorithm(record.algorithm),
        rules: None,
    }
}

/// `has_sets`: whether the Cluster set and the Local set have endpoints.
pub(super) fn frontend(
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
    /// Pods and processes of a node get the same.
    fn text(&self) -> String {
        let inside = if self.pod == self.host {
            self.pod.clone()
        } else {
            format!("{}, host {}", self.pod, self.host)
        };
        if self.outside == self.pod { inside } else { format!("{inside}, outside {}", self.outside) }
    }
}

pub(super) fn policy(flags: u32, flag: u32) -> String {
    if flags & flag != 0 { "Local" } else { "Cluster" }.to_owned()
}

pub(super) fn affinity(timeout: u32) -> AffinityView {
    match timeout {
        0 => AffinityView { kind: "None".to_owned(), timeout_seconds: None },
        seconds => AffinityView { kind: "ClientIP".to_owned(), timeout_seconds: Some(seconds) },
    }
}

pub(super) fn algorithm(algorithm: u8) -> String {
    match Algorithm::from_u8(algorithm) {
        Some(Algorithm::Random) => "random".to_owned(),
        None => format!("unknown ({algorithm})"),
    }
}

fn endpoints(tables: &Tables, range: SlotRange) -> Vec<String> {
    let slots = tables.slots_of(range).unwrap_or_default();
    let mut backends: Vec<_> =
        slots.iter().filter_map(|slot| tables.backend_of(*slot)).map(|b| (b.addr, b.port)).collect();
    backends.sort();
    backends.into_iter().map(|(addr, port)| authority(addr, port)).collect()
}

const fn kind_name(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::Cluster => "ClusterIP",
        FrontendKind::NodePort => "NodePort",
        FrontendKind::LoadBalancer => "LoadBalancer",
        FrontendKind::External => "ExternalIP",
    }
}
