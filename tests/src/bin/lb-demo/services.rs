//! The Services that `lb services -o json` lists (docs/output.md), and what a client should meet there.

use crate::stage::Stage;
use anyhow::{Context, Result};
use lb_common::Proto;
use lb_tests::world::{NODE_V4, NODE_V6, Netns};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address of a Service, and what a client should meet there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Frontend {
    /// `namespace/name`.
    pub service: String,
    pub kind: String,
    pub proto: Proto,
    pub address: SocketAddr,
    /// The servers that may answer. If there are none, each request is refused at once.
    pub servers: BTreeSet<String>,
    /// Whether the Service has session affinity: one server answers all requests.
    pub is_sticky: bool,
}

/// Who sends requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    /// The client, a pod.
    Pod,
    /// A process of the node.
    Host,
}

impl Asker {
    pub const ALL: [Self; 2] = [Self::Pod, Self::Host];

    pub fn netns(self, stage: &Stage) -> &Netns {
        match self {
            Self::Pod => &stage.world.client().netns,
            Self::Host => stage.world.node(),
        }
    }

    /// The name of the field in `lb services -o json`.
    fn field(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Host => "host",
        }
    }

    /// The address to which requests for a frontend go. For a NodePort, this is the node's own address, or loopback
    /// for a process of the node.
    fn asks(self, address: SocketAddr) -> SocketAddr {
        let ip = match (address.ip(), self) {
            (IpAddr::V4(ip), Self::Pod) if ip.is_unspecified() => NODE_V4.into(),
            (IpAddr::V6(ip), Self::Pod) if ip.is_unspecified() => NODE_V6.into(),
            (IpAddr::V4(ip), Self::Host) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            (IpAddr::V6(ip), Self::Host) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            (ip, _) => ip,
        };
        SocketAddr::new(ip, address.port())
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "the client",
            Self::Host => "a process of the node",
        })
    }
}

/// Every frontend, in order.
pub fn frontends(stage: &Stage, asker: Asker) -> Result<Vec<Frontend>> {
    let json = stage.world.lb(&["services", "-o", "json"])?;
    let document: Value = serde_json::from_str(&json).context("`lb services -o json` is not JSON")?;
    let ports = document.as_array();
    let ports = ports.with_context(|| format!("`lb services -o json` is not a list of services: {json}"))?;
    let mut found = Vec::new();
    for port in ports {
        found.extend(
            frontends_of(stage, asker, port).with_context(|| format!("`lb services -o json`: {port}"))?,
        );
    }
    found.sort();
    Ok(found)
}

fn frontends_of(stage: &Stage, asker: Asker, port: &Value) -> Result<Vec<Frontend>> {
    let service = format!("{}/{}", text(port, "namespace")?, text(port, "name")?);
    let proto = match text(port, "protocol")? {
        "TCP" => Proto::Tcp,
        "UDP" => Proto::Udp,
        // The demo has no client for other protocols.
        _ => return Ok(Vec::new()),
    };
    let is_sticky = port["sessionAffinity"]["type"] == "ClientIP";
    let mut frontends = Vec::new();
    for frontend in list(port, "frontends")? {
        let endpoints = match text(&frontend["clients"], asker.field())? {
            "cluster" => Some(list(port, "clusterEndpoints")?),
            "local" => Some(list(port, "localEndpoints")?),
            "reject" => None,
            // There is no answer to wait for.
            _ => continue,
        };
        let mut servers = BTreeSet::new();
        for endpoint in endpoints.into_iter().flatten() {
            servers.extend(stage.server_at(address(endpoint)?.ip()));
        }
        if endpoints.is_some() && servers.is_empty() {
            // The endpoints are not in this world.
            continue;
        }
        frontends.push(Frontend {
            service: service.clone(),
            kind: text(frontend, "kind")?.to_owned(),
            proto,
            address: asker.asks(address(&frontend["address"])?),
            servers,
            is_sticky,
        });
    }
    Ok(frontends)
}

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str> {
    value[field].as_str().with_context(|| format!("field {field:?} is not a string"))
}

fn list<'a>(value: &'a Value, field: &str) -> Result<&'a Vec<Value>> {
    value[field].as_array().with_context(|| format!("field {field:?} is not a list"))
}

fn address(value: &Value) -> Result<SocketAddr> {
    let text = value.as_str().context("the address is not a string")?;
    text.parse().with_context(|| format!("{text:?} is not an address with a port"))
}
