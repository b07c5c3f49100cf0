//! The kinds that are watched, and the selectors by which the server filters them.

use std::fmt::Debug;

use k8s_openapi::api::{core, discovery, networking};
use kube::Resource;
use serde::de::DeserializeOwned;

use crate::objects::cidr::ServiceCidr;
use crate::objects::event::{Change, Event};
use crate::objects::name::Kind;
use crate::objects::node::Node;
use crate::objects::service::Service;
use crate::objects::slice::Slice;

/// The compact form of a kind, and the wire form from which it is made.
pub(super) trait Watched: Clone + Debug + Send + Sized + 'static {
    type Wire: Resource<DynamicType = ()> + DeserializeOwned;
    const KIND: Kind;
    /// Label and field selectors: those of kube-proxy (cmd/kube-proxy/app/server.go, v1.36).
    const LABELS: &str = "";
    const FIELDS: &str = "";
    /// The plural of what [`Watched::weight`] counts.
    const WEIGHED: &str = "objects";
    /// Whether the cluster works without this kind.
    const IS_OPTIONAL: bool = false;

    fn compact(wire: Self::Wire) -> Self;
    fn event(change: Change<Self>) -> Event;

    /// The weight of the object in [`super::guard`]; zero for kinds that may come and go.
    fn weight(&self) -> u32 {
        0
    }
}

impl Watched for Service {
    type Wire = core::v1::Service;
    const KIND: Kind = Kind::Service;
    const LABELS: &str = "!service.kubernetes.io/service-proxy-name";
    const FIELDS: &str = "spec.clusterIP!=None";

    fn compact(wire: Self::Wire) -> Self {
        Self::new(wire, None)
    }

    fn event(change: Change<Self>) -> Event {
        Event::Service(change)
    }

    fn weight(&self) -> u32 {
        1
    }
}

impl Watched for Slice {
    type Wire = discovery::v1::EndpointSlice;
    const KIND: Kind = Kind::EndpointSlice;
    const LABELS: &str = "!service.kubernetes.io/headless";
    const WEIGHED: &str = "endpoints";

    fn compact(wire: Self::Wire) -> Self {
        Self::new(wire, None)
    }

    fn event(change: Change<Self>) -> Event {
        Event::Slice(change)
    }

    fn weight(&self) -> u32 {
        u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX)
    }
}

impl Watched for Node {
    type Wire = core::v1::Node;
    const KIND: Kind = Kind::Node;

    fn compact(wire: Self::Wire) -> Self {
        Self::new(wire)
    }

    fn event(change: Change<Self>) -> Event {
        Event::Node(change)
    }
}

impl Watched for ServiceCidr {
    type Wire = networking::v1::ServiceCIDR;
    const KIND: Kind = Kind::ServiceCidr;
    const IS_OPTIONAL: bool = true;

    fn compact(wire: Self::Wire) -> Self {
        Self::new(wire)
    }

    fn event(change: Change<Self>) -> Event {
        Event::ServiceCidr(change)
    }
}
