//! Names of objects, Service ports and address families.

use std::fmt;
use std::sync::Arc;

use lb_common::{Addr, Proto, ServiceName};

/// Namespace and name within a kind. The namespace is empty for kinds without namespaces. Copies share their text,
/// because an agent in a large cluster keeps each name in a dozen places.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectName {
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// An object of any kind, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    pub kind: Kind,
    pub name: ObjectName,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Service,
    EndpointSlice,
    Node,
    ServiceCidr,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Service, Self::EndpointSlice, Self::Node, Self::ServiceCidr];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
        })
    }
}

/// An object with a name, as a store holds it.
pub(crate) trait Named {
    fn object_name(&self) -> &ObjectName;
}

/// The identity of a service id: a Service port (Kubernetes: namespace, name, port name and protocol) of one
/// address family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Empty if the Service has one unnamed port.
    pub port: Arc<str>,
    pub proto: Proto,
    pub family: Family,
}

impl ServicePortName {
    /// The name that sorts first among the ports of a Service.
    pub fn first_of(service: ObjectName) -> Self {
        let ObjectName { namespace, name } = service;
        Self { namespace, name, port: Arc::default(), proto: Proto::Tcp, family: Family::Ipv4 }
    }

    /// The Service to which the port belongs.
    pub fn service(&self) -> ObjectName {
        ObjectName::new(self.namespace.clone(), self.name.clone())
    }

    /// The entry of the map `names`. Parts longer than 63 bytes would be cut, but no DNS label is that long.
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

    /// `None` if the entry is not a valid name.
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

    /// The address of NodePorts in `frontends`.
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
