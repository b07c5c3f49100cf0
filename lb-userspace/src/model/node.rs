//! The agent's own Node.

use k8s_openapi::api::core::v1;

use super::store::Named;
use crate::event::ObjectName;

/// What counts of a Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its namespace is empty.
    pub name: ObjectName,
    /// The label `topology.kubernetes.io/zone`: the zone that topology hints are compared with. kube-proxy keeps
    /// the last zone of a deleted Node until it restarts; here it is gone with the Node.
    pub zone: Option<String>,
}

impl Node {
    pub fn new(node: v1::Node) -> Self {
        let zone = node.metadata.labels.unwrap_or_default().remove("topology.kubernetes.io/zone");
        Self {
            name: ObjectName::new("", node.metadata.name.unwrap_or_default()),
            zone: zone.filter(|zone| !zone.is_empty()),
        }
    }
}

impl Named for Node {
    fn object_name(&self) -> &ObjectName {
        &self.name
    }
}
