//! The events of a source: those of kube-rs' watcher, for four kinds of objects.

use std::collections::BTreeSet;
use std::sync::Arc;

use lb_common::Addr;

use super::cidr::ServiceCidr;
use super::node::Node;
use super::notice::Notice;
use super::service::Service;
use super::slice::Slice;
use crate::objects::name::ObjectName;

/// One event of a source (the Kubernetes API, or a folder of manifests).
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Service(Change<Service>),
    Slice(Change<Slice>),
    /// All Nodes may arrive; only the agent's own Node counts.
    Node(Change<Node>),
    /// The ranges from which ClusterIPs are allocated, if the source knows them. Nothing waits for this kind.
    ServiceCidr(Change<ServiceCidr>),
    /// All addresses of the node's interfaces, including loopback addresses.
    Addresses(BTreeSet<Addr>),
    /// The notices about a file. They replace its previous notices, and are empty when the file is valid again.
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
    /// An object of the full list, or one that is new or changed.
    Apply(Object),
    Delete(ObjectName),
    /// An object that cannot be decoded, and the reason. Its last known state stays in force.
    Broken(ObjectName, String),
    /// The full list ends: objects that were not in it are gone.
    InitDone,
}
