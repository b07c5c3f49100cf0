//! `lb services`.

use lb_common::{Algorithm, FrontendKind, ServiceRecord, SlotRange};
use serde::Serialize;

use super::{authority, columns};
use crate::desired::ServicePortName;
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
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FrontendView {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalIP`.
    pub kind: String,
    /// `address:port`.
    pub address: String,
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
    for (key, frontend) in &tables.frontends {
        frontends.entry(frontend.service).or_default().push(FrontendView {
            kind: kind(frontend.kind).to_owned(),
            address: authority(key.addr, key.port),
        });
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
    let rows: Vec<[String; 8]> = services
        .iter()
        .map(|service| {
            let frontends: Vec<String> =
                service.frontends.iter().map(|f| format!("{} {}", f.kind, f.address)).collect();
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
                columns::list(&service.cluster_endpoints),
                columns::list(&service.local_endpoints),
                policy,
                affinity,
                service.algorithm.clone(),
            ]
        })
        .collect();
    columns::render(
        ["SERVICE", "PORT", "FRONTENDS", "ENDPOINTS", "LOCAL", "POLICY INT/EXT", "AFFINITY", "ALGORITHM"],
        &rows,
    )
}

fn view(tables: &Tables, name: ServicePortName, id: u32, mut frontends: Vec<FrontendView>) -> ServiceView {
    let record = tables.record(id);
    frontends.sort();
    let policy = |flag: u32| if record.flags & flag != 0 { "Local" } else { "Cluster" }.to_owned();
    let affinity = match record.affinity_timeout {
        0 => AffinityView { kind: "None".to_owned(), timeout_seconds: None },
        seconds => AffinityView { kind: "ClientIP".to_owned(), timeout_seconds: Some(seconds) },
    };
    ServiceView {
        namespace: name.namespace,
        name: name.name,
        port_name: name.port,
        protocol: name.proto.to_string(),
        family: name.family.to_string(),
        frontends,
        cluster_endpoints: endpoints(tables, record.cluster),
        local_endpoints: endpoints(tables, record.local),
        internal_traffic_policy: policy(ServiceRecord::INTERNAL_LOCAL),
        external_traffic_policy: policy(ServiceRecord::EXTERNAL_LOCAL),
        session_affinity: affinity,
        algorithm: match Algorithm::from_u8(record.algorithm) {
            Some(Algorithm::Random) => "random".to_owned(),
            None => format!("unknown ({})", record.algorithm),
        },
    }
}

fn endpoints(tables: &Tables, range: SlotRange) -> Vec<String> {
    let slots = tables.slots_of(range).unwrap_or_default();
    let mut backends: Vec<_> =
        slots.iter().filter_map(|slot| tables.backend_of(*slot)).map(|b| (b.addr, b.port)).collect();
    backends.sort();
    backends.into_iter().map(|(addr, port)| authority(addr, port)).collect()
}

const fn kind(kind: u8) -> &'static str {
    match FrontendKind::from_u8(kind) {
        Some(FrontendKind::Cluster) => "ClusterIP",
        Some(FrontendKind::NodePort) => "NodePort",
        Some(FrontendKind::LoadBalancer) => "LoadBalancer",
        Some(FrontendKind::External) => "ExternalIP",
        None => "unknown",
    }
}
