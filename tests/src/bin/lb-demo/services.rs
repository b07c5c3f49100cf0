//! Which Services there are, as `lb services -o json` tells (docs/output.md).

use crate::stage::Stage;
use anyhow::{Context, Result};
use lb_common::Proto;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// An address that a Service answers on, and the servers that may answer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Frontend {
    /// `namespace/name`.
    pub service: String,
    pub proto: Proto,
    pub address: SocketAddr,
    pub servers: BTreeSet<String>,
}

/// Every ClusterIP frontend that has endpoints, in order.
pub fn frontends(stage: &Stage) -> Result<Vec<Frontend>> {
    let json = stage.world.lb(&["services", "-o", "json"])?;
    let document: Value = serde_json::from_str(&json).context("`lb services -o json` is not JSON")?;
    let ports = document.as_array().or_else(|| document["services"].as_array());
    let ports = ports.with_context(|| format!("`lb services -o json` has no list of services: {json}"))?;
    let mut found = Vec::new();
    for port in ports {
        let read = frontends_of(stage, port).with_context(|| format!("`lb services -o json`: {port}"))?;
        found.extend(read.into_iter().filter(|frontend| !frontend.servers.is_empty()));
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
    let endpoints = list(port, "clusterEndpoints")?.iter().map(address).collect::<Result<Vec<_>>>()?;
    let mut frontends = Vec::new();
    for frontend in list(port, "frontends")? {
        if text(frontend, "kind")? != "ClusterIP" {
            continue;
        }
        let address = address(&frontend["address"])?;
        let servers = endpoints
            .iter()
            .filter(|endpoint| endpoint.is_ipv4() == address.is_ipv4())
            .filter_map(|endpoint| stage.server_at(endpoint.ip()))
            .collect();
        frontends.push(Frontend { service: service.clone(), proto, address, servers });
    }
    Ok(frontends)
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
