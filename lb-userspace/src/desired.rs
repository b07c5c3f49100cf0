//! What the tables ought to say about service ports, before ids are given out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use lb_common::{
    Addr, Algorithm, BackendState, Endpoint, FrontendKey, FrontendKind, Prefix, Proto, ServiceName,
};

use crate::event::ObjectName;

/// The desired state of the service ports that changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// `None` where a service port is not to be programmed (any more).
    pub services: BTreeMap<ServicePortName, Option<DesiredPort>>,
    /// These are all services there are: what the tables hold beyond them goes away.
    pub complete: bool,
    /// The node's own addresses that NodePorts answer on, all of them. `None`: as they are.
    pub node_addresses: Option<BTreeSet<Addr>>,
    /// `None`: as they are.
    pub service_ranges: Option<ServiceRanges>,
}

impl Desired {
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
            && !self.complete
            && self.node_addresses.is_none()
            && self.service_ranges.is_none()
    }
}

/// Where ClusterIPs are, beside those of the services.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceRanges {
    /// ServiceCIDRs: what goes to an address of theirs that no Service has is dropped. Those without
    /// [blocks](Prefix::has_blocks) are left out.
    pub cidrs: BTreeSet<Prefix>,
    /// ClusterIPs that another proxy serves: they are left alone.
    pub others: BTreeSet<Addr>,
}

/// One service port of one family, decided: policy, topology, readiness and termination are applied.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredPort {
    /// Where clients connect to. Never empty. A NodePort stands under the unspecified address of its family
    /// ([`Family::unspecified`]).
    pub frontends: BTreeMap<FrontendKey, FrontendKind>,
    /// The endpoints for a Cluster policy.
    pub cluster: BTreeSet<Endpoint>,
    /// The endpoints of this node for a Local policy.
    pub local: BTreeSet<Endpoint>,
    /// Every endpoint that may have flows: those of the sets, and those that only keep theirs.
    pub backends: BTreeMap<Endpoint, BackendShare>,
    /// `ServiceRecord::INTERNAL_LOCAL` and its siblings.
    pub flags: u32,
    pub algorithm: Algorithm,
    /// Seconds; 0 is no affinity.
    pub affinity_timeout: u32,
    /// The clients that may use frontends of kind `LoadBalancer`; empty is all. The planner makes
    /// `ServiceRecord::SOURCE_RANGES` of it.
    pub source_ranges: BTreeSet<Prefix>,
}

/// What a backend takes of the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendShare {
    pub state: BackendState,
    /// Relative share of new flows, for weighted algorithms.
    pub weight: u16,
}

/// The identity of a service id: a Service port (Kubernetes: namespace, name, port name and protocol) of one
/// address family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Empty where the Service has one unnamed port.
    pub port: Arc<str>,
    pub proto: Proto,
    pub family: Family,
}

impl ServicePortName {
    /// Not after any other of this Service.
    pub fn first_of(service: ObjectName) -> Self {
        let ObjectName { namespace, name } = service;
        Self { namespace, name, port: Arc::default(), proto: Proto::Tcp, family: Family::Ipv4 }
    }

    /// The Service that it is a port of.
    pub fn service(&self) -> ObjectName {
        ObjectName::new(self.namespace.clone(), self.name.clone())
    }

    /// As it stands in `names`. Parts longer than 63 bytes, which no DNS label is, would be cut.
    pub fn to_table(&self) -> ServiceName {
        ServiceName {
            namespace: label(&self.namespace),
            name: label(&self.name),
            port: label(&self.port),
            proto: self.proto as u8,
            family: self.family.number(),
            pad: [0; 6],
        }
    }

    /// `None` where the entry does not read as a name.
    pub fn from_table(name: &ServiceName) -> Option<Self> {
        Some(Self {
            namespace: text(&name.namespace)?,
            name: text(&name.name).filter(|name| !name.is_empty())?,
            port: text(&name.port)?,
            proto: Proto::from_number(name.proto)?,
            family: Family::from_number(name.family)?,
        })
    }
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if !self.port.is_empty() {
            write!(f, ":{}", self.port)?;
        }
        write!(f, "/{}/{}", self.proto, self.family)
    }
}

/// Kubernetes' `ipFamilies` and `addressType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    pub const fn of(addr: Addr) -> Self {
        if addr.is_v4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// The address under which NodePorts stand in `frontends`.
    pub const fn unspecified(self) -> Addr {
        match self {
            Self::Ipv4 => Addr::from_v4_word(0),
            Self::Ipv6 => Addr::UNSPECIFIED,
        }
    }

    /// 4 or 6.
    pub const fn number(self) -> u8 {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 => 6,
        }
    }

    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            4 => Some(Self::Ipv4),
            6 => Some(Self::Ipv6),
            _ => None,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

fn label(text: &str) -> [i8; 64] {
    let mut characters = [0; 64];
    for (character, byte) in characters[..63].iter_mut().zip(text.bytes()) {
        *character = byte.cast_signed();
    }
    characters
}

fn text(characters: &[i8; 64]) -> Option<Arc<str>> {
    let bytes = characters.iter().map(|character| character.cast_unsigned()).take_while(|byte| *byte != 0);
    String::from_utf8(bytes.collect()).ok().map(Arc::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_the_table() {
        let name = ServicePortName {
            namespace: "kube-system".into(),
            name: "a".repeat(63).into(),
            port: "".into(),
            proto: Proto::Sctp,
            family: Family::Ipv6,
        };
        assert_eq!(ServicePortName::from_table(&name.to_table()), Some(name));
    }

    #[test]
    fn an_empty_table_entry_is_no_name() {
        let zero = ServiceName {
            namespace: [0; 64],
            name: [0; 64],
            port: [0; 64],
            proto: 0,
            family: 0,
            pad: [0; 6],
        };
        assert_eq!(ServicePortName::from_table(&zero), None);
    }
}
