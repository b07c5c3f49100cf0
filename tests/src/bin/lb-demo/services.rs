//! Which Services there are, as `lb services -o json` tells (docs/output.md), and what a client is to meet there.

use crate::stage::Stage;
use anyhow::{Context, Result};
use lb_common::Proto;
use lb_tests::world::{NODE_V4, NODE_V6};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// An address that a Service answers on, and what a client meets there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Frontend {
    /// `namespace/name`.
    pub service: String,
    pub kind: String,
    pub proto: Proto,
    pub address: SocketAddr,
    /// The servers that may answer; none: each request is refused at once.
    pub servers: BTreeSet<String>,
    /// Session affinity: one of them answers them all.
    pub is_sticky: bool,
}

/// Every frontend, in order.
pub fn frontends(stage: &Stage) -> Result<Vec<Frontend>> {
    let json = stage.world.lb(&["services", "-o", "json"])?;
    let document: Value = serde_json::from_str(&json).context("`lb services -o json` is not JSON")?;
    let ports = document.as_array();
    let ports = ports.with_context(|| format!("`lb services -o json` has no list of services: {json}"))?;
    let mut found = Vec::new();
    for port in ports {
        found.extend(frontends_of(stage, port).with_context(|| format!("`lb services -o json`: {port}"))?);
    }
    found.sort();
    Ok(found)
}

fn frontends_of(stage: &Stage, port: &Value) -> Result<Vec<Frontend>> {
    let service = format!("{}/{}", text(port, "namespace")?, text(port, "name")?);
    let proto = match text(port, "protocol")? {
        "TCP" => Proto::Tcp,
        "UDP" => Proto::Udp,
        // The demo has no client for others.
        _ => return Ok(Vec::new()),
    };
    let is_sticky = port["sessionAffinity"]["type"] == "ClientIP";
    let mut frontends = Vec::new();
    for frontend in list(port, "frontends")? {
        let endpoints = match text(&frontend["clients"], "pod")? {
            "cluster" => Some(list(port, "clusterEndpoints")?),
            "local" => Some(list(port, "localEndpoints")?),
            "reject" => None,
            // Nothing to wait for.
            _ => continue,
        };
        let mut servers = BTreeSet::new();
        for endpoint in endpoints.into_iter().flatten() {
            servers.extend(stage.server_at(address(endpoint)?.ip()));
        }
        if endpoints.is_some() && servers.is_empty() {
            // They are not of this world.
            continue;
        }
        frontends.push(Frontend {
            service: service.clone(),
            kind: text(frontend, "kind")?.to_owned(),
            proto,
            address: asked(address(&frontend["address"])?),
            servers,
            is_sticky,
        });
    }
    Ok(frontends)
}

/// A NodePort is asked at the node's own address.
fn asked(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => NODE_V4.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => NODE_V6.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str> {
    value[field].as_str().with_context(|| format!("no text {field:?}"))
}

fn list<'a>(value: &'a Value, field: &str) -> Result<&'a Vec<Value>> {
    value[field].as_array().with_context(|| format!("no list {field:?}"))
}

fn address(value: &Value) -> Result<SocketAddr> {
    let text = value.as_str().context("no address")?;
    text.parse().with_context(|| format!("{text:?} is not address:port"))
}
