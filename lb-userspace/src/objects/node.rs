//! The agent's own Node.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1;
use lb_common::Addr;

use super::name::{Family, Named, ObjectName};

const ZONE: &str = "topology.kubernetes.io/zone";
/// With this taint the cluster autoscaler announces that it is about to remove a Node (KEP-3836).
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";

/// The compact form of a Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The namespace is empty.
    pub name: ObjectName,
    /// The label `topology.kubernetes.io/zone`, with which topology hints are compared. kube-proxy keeps the last zone
    /// of a deleted Node until it restarts; here the zone disappears with the Node.
    pub zone: Option<String>,
    /// Addresses of type InternalIP, in the order of the object.
    pub internal_ips: Vec<Addr>,
    /// Addresses of type ExternalIP, in the order of the object.
    pub external_ips: Vec<Addr>,
    pub pod_cidrs: Vec<IpNet>,
    /// Whether the Node has a `deletionTimestamp`.
    pub is_being_deleted: bool,
    /// Whether the cluster autoscaler is about to remove the Node (taint `ToBeDeletedByClusterAutoscaler` with any
    /// effect).
    pub is_leaving: bool,
}

impl Node {
    pub fn new(node: v1::Node) -> Self {
        let metadata = node.metadata;
        let spec = node.spec.unwrap_or_default();
        let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
        let of_type = |kind: &str| -> Vec<Addr> {
            let texts = addresses.iter().filter(|a| a.type_ == kind).map(|a| a.address.as_str());
            texts.filter_map(|text| text.parse::<IpAddr>().ok()).map(Addr::from).collect()
        };
        let mut pod_cidrs = spec.pod_cidrs.unwrap_or_default();
        if pod_cidrs.is_empty() {
            pod_cidrs.extend(spec.pod_cidr);
        }
        let zone = metadata.labels.unwrap_or_default().remove(ZONE);
        Self {
            name: ObjectName::new("", metadata.name.unwrap_or_default()),
            zone: zone.filter(|zone| !zone.is_empty()),
            internal_ips: of_type("InternalIP"),
            external_ips: of_type("ExternalIP"),
            pod_cidrs: pod_cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect(),
            is_being_deleted: metadata.deletion_timestamp.is_some(),
            is_leaving: spec.taints.unwrap_or_default().iter().any(|taint| taint.key == LEAVING),
        }
    }

    /// The primary address of a family: the first InternalIP, otherwise the first ExternalIP (k/k
    /// staging/src/k8s.io/component-helpers/node/util/ips.go).
    pub fn primary_ip(&self, family: Family) -> Option<Addr> {
        self.internal_ips.iter().chain(&self.external_ips).copied().find(|ip| Family::of(*ip) == family)
    }
}

impl Named for Node {
    fn object_name(&self) -> &ObjectName {
        &self.name
    }
}
