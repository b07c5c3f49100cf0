//! The ranges from which ClusterIPs are allocated.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1;

use super::name::{Named, ObjectName};

/// The compact form of a ServiceCIDR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// The namespace is empty.
    pub name: ObjectName,
    /// The valid prefixes; the API server accepts no others.
    pub prefixes: Vec<IpNet>,
}

impl ServiceCidr {
    pub fn new(cidr: v1::ServiceCIDR) -> Self {
        let cidrs = cidr.spec.and_then(|spec| spec.cidrs).unwrap_or_default();
        Self {
            name: ObjectName::new("", cidr.metadata.name.unwrap_or_default()),
            prefixes: cidrs.iter().filter_map(|text| text.parse().ok()).collect(),
        }
    }
}

impl Named for ServiceCidr {
    fn object_name(&self) -> &ObjectName {
        &self.name
    }
}
