//! Any number of Services and EndpointSlices, and two Services with real servers.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use lb_tests::cluster::Cluster;
use serde_json::{Value, json};

/// The namespace of the many Services.
const NAMESPACE: &str = "many";
/// The number of concurrent requests to the API server.
const AT_ONCE: usize = 16;
/// The addresses of the Services that get packets: the one that changes, and the last one that is written.
pub const PROBED: Ipv4Addr = Ipv4Addr::new(10, 96, 255, 10);
pub const LAST: Ipv4Addr = Ipv4Addr::new(10, 96, 255, 20);
pub const PORT: u16 = 80;
/// The port on which servers listen.
pub const TARGET: u16 = 8_080;

const PROBED_NAME: &str = "probed";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    pub services: usize,
    pub endpoints: usize,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (services, endpoints) = text.split_once('x')?;
            Some(Self { services: services.parse().ok()?, endpoints: endpoints.parse().ok()? })
        };
        let size = read().ok_or_else(|| format!("{text}: expected SERVICESxENDPOINTS, such as 10000x2"))?;
        match (size.services, size.endpoints) {
            (500..=50_000, 1..=1_000) => Ok(size),
            _ => Err("expected 500 to 50,000 services with 1 to 1,000 endpoints each".to_owned()),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { services, endpoints } = self;
        match services {
            1_000.. => write!(f, "{},{:03} x {endpoints}", services / 1_000, services % 1_000),
            _ => write!(f, "{services} x {endpoints}"),
        }
    }
}

/// Writes all objects, the Service `LAST` at the end. `first` are the endpoints of the Services `PROBED` and `LAST`.
pub fn create(cluster: &Cluster, size: Size, node: &str, first: &[Ipv4Addr]) -> Result<()> {
    let probed = [(PROBED_NAME, PROBED), ("last", LAST)]
        .map(|(name, ip)| (service("default", name, ip), slice("default", name, first.iter().copied())));
    let node = json!({
        "metadata": {"name": node},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.77.1"}]},
    });
    cluster.run(move |client| async move {
        let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        Api::all(client.clone())
            .create(
                &PostParams::default(),
                &serde_json::from_value::<k8s_openapi::api::core::v1::Node>(node.clone())?,
            )
            .await?;
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&node)).await?;
        let objects = (0..size.services).map(|number| {
            let (service, slice) = (
                service(NAMESPACE, &name_of(number), vip(number)),
                slice(NAMESPACE, &name_of(number), endpoints(number, size, 0)),
            );
            write(client.clone(), service, slice)
        });
        stream::iter(objects).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        for (service, slice) in probed {
            write(client.clone(), service, slice).await?;
        }
        Ok(())
    })
}

async fn write(client: Client, service: Value, slice: Value) -> Result<()> {
    let namespace = service["metadata"]["namespace"].as_str().unwrap_or_default();
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let slices: Api<EndpointSlice> = Api::namespaced(client, namespace);
    services
        .create(&PostParams::default(), &serde_json::from_value(service)?)
        .await
        .context("cannot create a Service")?;
    slices
        .create(&PostParams::default(), &serde_json::from_value(slice)?)
        .await
        .context("cannot create an EndpointSlice")?;
    Ok(())
}

/// Gives the probed Service other endpoints; returns when the API server has accepted them.
pub async fn change_probed(client: &Client, to: &[Ipv4Addr]) -> Result<()> {
    patch(client, "default", PROBED_NAME, to.iter().copied()).await
}

/// Replaces the first endpoint of one of the many Services, at each `turn` by a new one.
pub async fn change(client: &Client, number: usize, size: Size, turn: usize) -> Result<()> {
    patch(client, NAMESPACE, &name_of(number), endpoints(number, size, turn)).await
}

async fn patch(
    client: &Client,
    namespace: &str,
    name: &str,
    to: impl Iterator<Item = Ipv4Addr>,
) -> Result<()> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let patch = json!({"endpoints": endpoint_list(to)});
    slices.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

/// Whether a slice is that of the probed Service.
pub fn is_probed(slice: &EndpointSlice) -> bool {
    slice.metadata.namespace.as_deref() == Some("default")
        && slice.metadata.name.as_deref() == Some(PROBED_NAME)
}

fn name_of(number: usize) -> String {
    format!("service-{number}")
}

fn vip(number: usize) -> Ipv4Addr {
    // These addresses are free; the first ones of the range belong to `default/kubernetes` and the like.
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + number as u32)
}

/// Addresses that no pod of the world has, each used once in all Services and all turns.
fn endpoints(number: usize, size: Size, turn: usize) -> impl Iterator<Item = Ipv4Addr> {
    let base = u32::from(Ipv4Addr::new(10, 128, 0, 0)) + (number * size.endpoints) as u32;
    let changed = u32::from(Ipv4Addr::new(10, 192, 0, 0)) + (turn * size.services + number) as u32;
    let first = if turn == 0 { base } else { changed };
    std::iter::once(first).chain((1..size.endpoints as u32).map(move |i| base + i)).map(Ipv4Addr::from)
}

fn service(namespace: &str, name: &str, ip: Ipv4Addr) -> Value {
    let ports = ["TCP", "UDP"].map(|protocol| {
        json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": PORT, "targetPort": TARGET})
    });
    // Each of the many Services has one port, as most Services do.
    let ports = if namespace == NAMESPACE { &ports[..1] } else { &ports[1..] };
    json!({
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "selector": {"app": name}, "ports": ports},
    })
}

fn slice(namespace: &str, name: &str, to: impl Iterator<Item = Ipv4Addr>) -> Value {
    let protocol = if namespace == NAMESPACE { "TCP" } else { "UDP" };
    json!({
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {
                "kubernetes.io/service-name": name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": "IPv4",
        "endpoints": endpoint_list(to),
        "ports": [{"name": protocol.to_lowercase(), "protocol": protocol, "port": TARGET}],
    })
}

/// Endpoints as the controller of Kubernetes writes them.
fn endpoint_list(to: impl Iterator<Item = Ipv4Addr>) -> Vec<Value> {
    let endpoint = |address: Ipv4Addr| {
        let pod = format!("pod-{}", address.to_string().replace('.', "-"));
        json!({
            "addresses": [address],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", address.octets()[3]),
            "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": pod, "uid": format!("uid-of-{pod}")},
        })
    };
    to.map(endpoint).collect()
}
