//! What a source of objects says: the alphabet of kube-rs' watcher, for four kinds.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use lb_common::Addr;

use crate::model::{Node, Notice, Service, ServiceCidr, Slice};

/// One step of a source (the Kubernetes API, or a folder of manifests).
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Service(Change<Service>),
    Slice(Change<Slice>),
    /// Objects of all Nodes may come; only the agent's own counts.
    Node(Change<Node>),
    /// The ranges that ClusterIPs are taken from, where the source knows them: nothing waits for this kind.
    ServiceCidr(Change<ServiceCidr>),
    /// All addresses of the node's interfaces, loopback ones too.
    Addresses(BTreeSet<Addr>),
    /// What is wrong with a file: replaces what was said of it before; empty when it is whole again.
    File {
        file: Arc<str>,
        notices: Vec<Notice>,
    },
}

/// A change to the objects of one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Change<Object> {
    /// A full list begins; the objects known so far stay in force until its end.
    Init,
    /// Part of the full list, or else an object that is new or changed.
    Apply(Object),
    Delete(ObjectName),
    /// An object that cannot be decoded, and why: what was last known of it stays in force.
    Broken(ObjectName, String),
    /// The full list ends: objects that were not in it are gone.
    InitDone,
}

/// Namespace and name within a kind; empty for kinds without namespaces. Copies share their text: an agent of a large
/// cluster keeps each name in a dozen places.
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
