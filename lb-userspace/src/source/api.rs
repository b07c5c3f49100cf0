//! Objects from a Kubernetes API server, through kube's watchers.
//!
//! ```text
//! access --kube::Config--> client --Api<Lenient<K>>--> follow --Event--> the agent's loop
//! (files, environment)     (one for all kinds)         (a task for each kind)
//! ```
//!
//! An object is reduced to its compact form while it is decoded. This module stores no objects.

mod access;
mod client;
mod connect;
mod decode;
mod fault;
mod follow;
mod guard;
mod node;
mod rewind;
mod rights;
mod transport;
mod watched;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use access::{Access, CountRequests, Times};
pub use connect::Route;
pub use rights::{NEEDED, Needed, denied};

use super::progress::Progress;
use crate::objects::cidr::ServiceCidr;
use crate::objects::event::Event;
use crate::objects::node::Node;
use crate::objects::service::Service;
use crate::objects::slice::Slice;
use crate::tables::Tables;
use client::Client;
use follow::Follower;
use guard::Guard;

/// Returns a client that connects to the API server as the agent does. `tables` are those of an agent, or empty if
/// there are none.
///
/// # Errors
/// The same as for [`watch`].
pub async fn client(access: Access, tables: &Tables) -> anyhow::Result<kube::Client> {
    let route = Route::default();
    let client = Client::new(access, route.clone(), Arc::default()).await?.into_kube();
    route.learn(tables);
    Ok(client)
}

/// Whether a service account is mounted, as in every pod.
pub fn is_in_pod() -> bool {
    access::is_in_pod()
}

/// The watches of all kinds. They end when this value is dropped.
pub struct Watch {
    /// Other parts of the agent also use this client.
    pub client: kube::Client,
    pub progress: Arc<Progress>,
    /// Must be given the tables after each change, by [`Route::learn`].
    pub route: Route,
    _tasks: JoinSet<()>,
}

/// Starts the watches, which send the events of Services, EndpointSlices, the agent's own Node and ServiceCIDRs. Faults
/// of the API server are logged, and the last known state stays. `tables` are those that an earlier agent left.
///
/// # Errors
/// If the address or the credentials are unknown: there is neither a kubeconfig nor a service account, or one of them
/// cannot be read.
pub async fn watch(
    access: Access,
    node_name: &str,
    tables: &Tables,
    events: mpsc::Sender<Event>,
) -> anyhow::Result<Watch> {
    let times = access.times.clone();
    let progress = Arc::new(Progress::default());
    let route = Route::default();
    let client = Client::new(access, route.clone(), Arc::clone(&progress)).await?.into_kube();
    route.learn(tables);
    let mut tasks = JoinSet::new();
    let follower = |events, before| {
        Follower::new(client.clone(), events, Arc::clone(&progress), times.clone(), Guard::new(before))
    };
    let (services, endpoints) = guard::left_by_an_earlier_agent(tables);
    tasks.spawn(follower(events.clone(), services).run::<Service>(String::new()));
    tasks.spawn(follower(events.clone(), endpoints).run::<Slice>(String::new()));
    tasks.spawn(follower(events.clone(), 0).run::<ServiceCidr>(String::new()));
    let (said, heard) = mpsc::channel(16);
    tasks.spawn(follower(said, 0).run::<Node>(format!("metadata.name={node_name}")));
    tasks.spawn(node::wait(node_name.to_owned(), times.node, heard, events));
    Ok(Watch { client, progress, route, _tasks: tasks })
}
