//! What the command line says about all Services.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use lb_common::{Addr, Prefix};

use super::node_ports::NodePortAddresses;

/// The defaults are kube-proxy's in iptables mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Only Services with this value of the label `service.kubernetes.io/service-proxy-name` are served; if `None`,
    /// only those without the label.
    pub service_proxy_name: Option<String>,
    pub external_ip_cidrs: ExternalIpCidrs,
    pub service_cidrs: ServiceCidrs,
    pub node_port_addresses: NodePortAddresses,
}

/// Ranges of ClusterIPs in addition to those of ServiceCIDR objects, for clusters and folders without these objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceCidrs(Vec<IpNet>);

impl ServiceCidrs {
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        self.0.iter().map(|net| Prefix::new(net.addr(), net.prefix_len()))
    }
}

/// Prefixes, separated by commas.
impl FromStr for ServiceCidrs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let nets = Self(text.split(',').map(crate::objects::wire::net).collect::<Result<_, _>>()?);
        let wide = nets.prefixes().find(|prefix| !prefix.has_blocks());
        match wide {
            None => Ok(nets),
            Some(prefix) => {
                Err(format!("{prefix} is too wide for Services: /8 for IPv4 and /64 for IPv6 are the widest"))
            }
        }
    }
}

/// Which externalIPs are served. A user who may edit a Service can enter any address there, and so take the traffic of
/// another owner (CVE-2020-8554).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExternalIpCidrs {
    #[default]
    Any,
    /// Only addresses within one of these prefixes; no address if there are no prefixes.
    Within(Vec<IpNet>),
}

impl ExternalIpCidrs {
    pub fn allows(&self, addr: Addr) -> bool {
        match self {
            Self::Any => true,
            Self::Within(nets) => nets.iter().any(|net| net.contains(&std::net::IpAddr::from(addr))),
        }
    }
}

/// `any`, `none`, or prefixes, separated by commas.
impl FromStr for ExternalIpCidrs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "any" => Ok(Self::Any),
            "none" => Ok(Self::Within(Vec::new())),
            _ => text.split(',').map(crate::objects::wire::net).collect::<Result<_, _>>().map(Self::Within),
        }
    }
}

impl fmt::Display for ExternalIpCidrs {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Within(nets) if nets.is_empty() => f.write_str("none"),
            Self::Within(nets) => {
                f.write_str(&nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}
