//! Objects from a Kubernetes API server, through kube's watchers.
//!
//! ```text
//! access --kube::Config--> client --Api<Lenient<K>>--> follow --Event--> the agent's loop
//! (files, environment)     (one for all kinds)         (a task for each kind)
//! ```
//!
//! An object is cut down to the model's compact form while it is decoded. Nothing here keeps one.

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

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use connect::Route;
pub use rights::{NEEDED, Needed, denied};

use crate::objects::cidr::ServiceCidr;
use crate::objects::event::Event;
use crate::objects::node::Node;
use crate::objects::service::Service;
use crate::objects::slice::Slice;
use crate::sources::State;
use crate::tables::Tables;
use crate::telemetry::RestClient;
use client::Client;
use follow::Follower;
use guard::Guard;

/// Where the API server is, and who we are to it.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// None: the service account of a pod.
    pub kubeconfig: Option<PathBuf>,
    /// Overrides the address of the kubeconfig, or of the environment: a URL, or `host:port`.
    pub server: Option<String>,
    pub times: Times,
    /// What requests are counted into.
    pub requests: Option<RestClient>,
}

/// How long to wait for what. Tests have less patience.
#[derive(Clone, Debug)]
pub struct Times {
    /// Until a connection is made.
    pub connect: Duration,
    /// Until an answer begins, and between two parts of a list.
    pub answer: Duration,
    /// A connection on which nothing came for so long is asked for a sign of life (client-go's
    /// `HTTP2_READ_IDLE_TIMEOUT_SECONDS`).
    pub ping: Duration,
    /// Until the sign has to be there (`HTTP2_PING_TIMEOUT_SECONDS`).
    pub pong: Duration,
    /// The longest pause between two attempts.
    pub retry: Duration,
    /// A watch that was interrupted for longer is not resumed but listed anew: an etcd may have been restored
    /// meanwhile. (A server that was restarted has most watches listed anew anyway: it remembers no changes from
    /// before.)
    pub resume: Duration,
    /// Before a list that lost more than half is asked for again.
    pub confirm: Duration,
    /// Until the own Node object is there; then what needs no Node is served (kube-proxy: pkg/proxy/node.go).
    pub node: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            ping: Duration::from_secs(30),
            pong: Duration::from_secs(15),
            retry: Duration::from_secs(5),
            resume: Duration::from_secs(5),
            confirm: Duration::from_secs(1),
            node: Duration::from_secs(30),
        }
    }
}

/// A client that reaches the API server as the agent does. `tables` are those of an agent, if there is one.
///
/// # Errors
/// As [`watch`].
pub async fn client(config: Config, tables: &Tables) -> anyhow::Result<kube::Client> {
    let route = Route::default();
    let client = Client::new(config, route.clone(), Arc::default()).await?.into_kube();
    route.learn(tables);
    Ok(client)
}

/// Is there a service account, as every pod has one?
pub fn is_in_pod() -> bool {
    access::is_in_pod()
}

/// The watches of all kinds; they end when this is dropped.
pub struct Watch {
    /// Also for whoever else talks to the API server.
    pub client: kube::Client,
    pub state: Arc<State>,
    /// To be told of the tables after each change of them.
    pub route: Route,
    _tasks: JoinSet<()>,
}

/// Sends the events of Services, EndpointSlices, the own Node and ServiceCIDRs until it is dropped. Faults of the API
/// server are said in the log, and what was last known stays. `tables` are those that an earlier agent left.
///
/// # Errors
/// Where it cannot be known whom to ask: no kubeconfig and no service account, or one that cannot be read.
pub async fn watch(
    config: Config,
    node_name: &str,
    tables: &Tables,
    events: mpsc::Sender<Event>,
) -> anyhow::Result<Watch> {
    let times = config.times.clone();
    let state = Arc::new(State::default());
    let route = Route::default();
    let client = Client::new(config, route.clone(), Arc::clone(&state)).await?.into_kube();
    route.learn(tables);
    let mut tasks = JoinSet::new();
    let follower = |events, before| {
        Follower::new(client.clone(), events, Arc::clone(&state), times.clone(), Guard::new(before))
    };
    let (services, endpoints) = guard::left_by_an_earlier_agent(tables);
    tasks.spawn(follower(events.clone(), services).run::<Service>(String::new()));
    tasks.spawn(follower(events.clone(), endpoints).run::<Slice>(String::new()));
    tasks.spawn(follower(events.clone(), 0).run::<ServiceCidr>(String::new()));
    let (said, heard) = mpsc::channel(16);
    tasks.spawn(follower(said, 0).run::<Node>(format!("metadata.name={node_name}")));
    tasks.spawn(node::wait(node_name.to_owned(), times.node, heard, events));
    Ok(Watch { client, state, route, _tasks: tasks })
}
