//! An EndpointSlice, reduced to the fields that are used.

use std::sync::Arc;

use k8s_openapi::api::discovery::v1;
use k8s_openapi::jiff::Timestamp;
use lb_common::{Addr, Port, Proto};

use super::name::{Family, Named, ObjectName};
use super::notice::{Problem, Severity};
use super::wire::{address, protocol};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// kube-proxy does not see slices with this label.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// The time at which the Pod or Service changed that led to this slice, as set by the controller.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The compact form of an EndpointSlice. A slice that does not count has neither ports nor endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    pub name: ObjectName,
    /// The file of the object; `None` if the object came from the Kubernetes API.
    pub file: Option<Arc<str>>,
    /// Name of the Service, in the same namespace; `None` if the slice does not count.
    pub service: Option<Arc<str>>,
    pub family: Option<Family>,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<SliceEndpoint>,
    /// The annotation `endpoints.kubernetes.io/last-change-trigger-time`: the time of the change that led to this
    /// slice.
    pub trigger_time: Option<Timestamp>,
    pub problems: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    pub name: Arc<str>,
    pub proto: Proto,
    pub port: Port,
}

/// One endpoint. Conditions that are nil have their defaults (ready and serving are true, terminating is false; k/k
/// pkg/proxy/endpointslicecache.go).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    pub addr: Addr,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub node: Option<Box<str>>,
    /// Boxed, because most endpoints have no hints.
    pub hints: Option<Box<Hints>>,
}

/// Topology hints; an empty list means no hint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    pub nodes: Vec<String>,
    pub zones: Vec<String>,
}

impl SliceEndpoint {
    pub(crate) fn node_hints(&self) -> &[String] {
        self.hints.as_ref().map_or(&[], |hints| &hints.nodes)
    }

    pub(crate) fn zone_hints(&self) -> &[String] {
        self.hints.as_ref().map_or(&[], |hints| &hints.zones)
    }
}

impl Slice {
    pub fn new(slice: v1::EndpointSlice, file: Option<Arc<str>>) -> Self {
        let metadata = slice.metadata;
        let labels = metadata.labels.unwrap_or_default();
        let annotation = |name: &str| metadata.annotations.as_ref()?.get(name);
        let mut compact = Self {
            trigger_time: annotation(TRIGGER_TIME).and_then(|time| time.parse().ok()),
            name: ObjectName::new(
                metadata.namespace.unwrap_or_else(|| "default".to_owned()),
                metadata.name.unwrap_or_default(),
            ),
            file,
            service: None,
            family: None,
            ports: Vec::new(),
            endpoints: Vec::new(),
            problems: Vec::new(),
        };
        let problems = &mut compact.problems;
        if labels.contains_key(HEADLESS) {
            return compact;
        }
        compact.family = match slice.address_type.as_str() {
            "IPv4" => Some(Family::Ipv4),
            "IPv6" => Some(Family::Ipv6),
            "FQDN" => None,
            other => {
                problems.push(Problem::new(Severity::Error, format!("addressType \"{other}\" is not known")));
                None
            }
        };
        compact.service =
            labels.get(SERVICE_NAME).filter(|name| !name.is_empty()).map(|name| name.as_str().into());
        if compact.service.is_none() {
            problems.push(Problem::new(
                Severity::Warning,
                format!("no label {SERVICE_NAME}: the slice is not used"),
            ));
        }
        if let Some(family) = compact.family {
            compact.ports =
                slice.ports.into_iter().flatten().filter_map(|port| slice_port(port, problems)).collect();
            compact.endpoints = slice
                .endpoints
                .into_iter()
                .flatten()
                .filter_map(|endpoint| slice_endpoint(endpoint, family, problems))
                .collect();
            compact.ports.shrink_to_fit();
            compact.endpoints.shrink_to_fit();
        }
        compact
    }

    /// The Service to which the slice belongs.
    pub(crate) fn owner(&self) -> Option<ObjectName> {
        Some(ObjectName::new(self.name.namespace.clone(), self.service.clone()?))
    }
}

impl Named for Slice {
    fn object_name(&self) -> &ObjectName {
        &self.name
    }
}

/// A port without a number means "any" in the API; a proxy cannot use it, so it is ignored. The API accepts numbers
/// above 65535; they are refused, never truncated.
fn slice_port(port: v1::EndpointPort, problems: &mut Vec<Problem>) -> Option<SlicePort> {
    let name: Arc<str> = port.name.unwrap_or_default().into();
    let number = port.port.filter(|number| *number != 0)?;
    let outcome = protocol(port.protocol.as_deref()).and_then(|proto| {
        let port = u16::try_from(number).map_err(|_| format!("number {number} is not within 1-65535"))?;
        Ok(SlicePort { name: name.clone(), proto, port: Port::new(port) })
    });
    outcome
        .map_err(|error| problems.push(Problem::new(Severity::Error, format!("port \"{name}\": {error}"))))
        .ok()
}

/// Only the first address counts, because the API says that all addresses of an endpoint are interchangeable.
fn slice_endpoint(
    endpoint: v1::Endpoint,
    family: Family,
    problems: &mut Vec<Problem>,
) -> Option<SliceEndpoint> {
    let mut refuse = |text: String| problems.push(Problem::new(Severity::Error, format!("endpoint: {text}")));
    let Some(text) = endpoint.addresses.first() else {
        refuse("no address".into());
        return None;
    };
    let addr = match address(text) {
        Ok(addr) if Family::of(addr) == family => addr,
        Ok(addr) => {
            refuse(format!("{addr} is not of addressType {family}"));
            return None;
        }
        Err(error) => {
            refuse(error);
            return None;
        }
    };
    let conditions = endpoint.conditions.unwrap_or_default();
    let hints = endpoint.hints.map(|hints| Hints {
        nodes: hints.for_nodes.unwrap_or_default().into_iter().map(|node| node.name).collect(),
        zones: hints.for_zones.unwrap_or_default().into_iter().map(|zone| zone.name).collect(),
    });
    Some(SliceEndpoint {
        addr,
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        node: endpoint.node_name.filter(|node| !node.is_empty()).map(String::into_boxed_str),
        hints: hints.map(Box::new),
    })
}
