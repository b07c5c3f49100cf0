//! What a source of objects says: the alphabet of kube-rs' watcher, for four kinds.

use std::collections::BTreeSet;
use std::sync::Arc;

use lb_common::Addr;

use super::cidr::ServiceCidr;
use super::node::Node;
use super::notice::Notice;
use super::service::Service;
use super::slice::Slice;
use crate::objects::name::ObjectName;

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
