//! The API as a source: what the agent does with a server that answers, and with one that does not.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its failure")]

mod agent;
mod faults;
mod route;
mod server;

use std::time::Duration;

use agent::{Agent, NODE};
use serde_json::{Value, json};
use server::Server;

/// A Service with one port.
fn service(name: &str, ip: &str) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ports": [{"port": 80}]},
    })
}

/// The only slice of a Service.
fn slice(name: &str, ips: &[&str]) -> Value {
    let endpoints: Vec<Value> = ips.iter().map(|ip| json!({"addresses": [ip]})).collect();
    json!({
        "metadata": {
            "namespace": "default", "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    })
}

/// A server with two Services, and the node.
fn server() -> Server {
    let server = Server::start();
    server.put("nodes", json!({"metadata": {"name": NODE}}));
    for (name, ip, endpoint) in [("a", "10.96.0.1", "10.0.0.1"), ("b", "10.96.0.2", "10.0.0.2")] {
        server.put("endpointslices", slice(name, &[endpoint]));
        server.put("services", service(name, ip));
    }
    server
}

/// The same server, and an agent that has followed it.
async fn following() -> (Server, Agent) {
    let server = server();
    let mut agent = Agent::start(&server).await;
    agent.until(BOTH).await;
    (server, agent)
}

/// Deletes a Service of [`server`] and its slice.
fn forget(server: &Server, name: &str) {
    server.delete("services", "default", name);
    server.delete("endpointslices", "default", &format!("{name}-1"));
}

const BOTH: &str = "a 10.0.0.1:8080; b 10.0.0.2:8080";

#[tokio::test]
async fn lists_and_changes_become_tables() {
    let (server, mut agent) = following().await;
    server.put("endpointslices", slice("a", &["10.0.0.1", "10.0.0.3"]));
    agent.until("a 10.0.0.1:8080,10.0.0.3:8080; b 10.0.0.2:8080").await;
    server.delete("services", "default", "a");
    agent.until("b 10.0.0.2:8080").await;
    // The selectors are those of kube-proxy.
    let asked = server.requests("/api/v1/services");
    assert!(
        asked[0].contains("labelSelector=%21service.kubernetes.io%2Fservice-proxy-name")
            && asked[0].contains("fieldSelector=spec.clusterIP%21%3DNone"),
        "{asked:?}"
    );
    let asked = server.requests("endpointslices");
    assert!(asked[0].contains("labelSelector=%21service.kubernetes.io%2Fheadless"), "{asked:?}");
    assert!(server.requests("nodes")[0].contains("fieldSelector=metadata.name%3Dnode-1"));
}

#[tokio::test]
async fn a_server_that_cannot_stream_lists_is_asked_for_pages() {
    let server = server();
    server.page_only();
    let mut agent = Agent::start(&server).await;
    agent.until(BOTH).await;
    server.put("endpointslices", slice("b", &["10.0.0.4"]));
    agent.until("a 10.0.0.1:8080; b 10.0.0.4:8080").await;
}

#[tokio::test]
async fn a_restart_without_change_is_no_operation() {
    let (server, agent) = following().await;
    let mut next = Agent::with(agent::access(&server), agent.tables().clone()).await;
    next.until(BOTH).await;
    next.stays(BOTH, Duration::from_millis(300)).await;
    assert_eq!(next.operations, 0);
}
