//! A client that watches Services and EndpointSlices and keeps nothing: the least that any agent on `kube` must take.

use std::io::Write;
use std::path::Path;
use std::pin::pin;
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context, Result};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config};
use lb_tests::cluster::Caller;
use lb_tests::world::Netns;

use super::population;

/// What the process prints when both lists are complete.
pub const DONE: &str = "ready";

/// The main function of the process: lists, prints [`DONE`], and continues to watch.
pub fn run(kubeconfig: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let (mut services, mut slices) = (pin!(services(client.clone())), pin!(slices(client)));
        futures::join!(services.next(), slices.next());
        println!("{DONE}");
        std::io::stdout().flush()?;
        futures::join!(services.for_each(|_| async {}), slices.for_each(|_| async {}));
        Ok(())
    })
}

/// A watch of EndpointSlices inside this process.
pub struct Watch {
    /// When each change of the probed Service was decoded.
    pub seen: mpsc::Receiver<Instant>,
    /// Dropping the caller ends the watch.
    _caller: Caller,
}

impl Watch {
    /// Returns when the list is complete.
    pub fn start(netns: &Netns, kubeconfig: &Path) -> Result<Self> {
        let caller = Caller::connected(netns, kubeconfig)?;
        let (said, seen) = mpsc::channel();
        caller.run(|client| async move {
            let mut slices = Box::pin(slices(client));
            slices.next().await.context("the watch ended before the list was complete")?;
            tokio::spawn(async move {
                while let Some(change) = slices.next().await {
                    let is_probed = change.as_ref().is_some_and(population::is_probed);
                    if is_probed && said.send(Instant::now()).is_err() {
                        break;
                    }
                }
            });
            Ok(())
        })?;
        Ok(Self { seen, _caller: caller })
    }
}

/// Uses the selectors of kube-proxy (cmd/kube-proxy/app/server.go, v1.36), as `lb` does.
fn services(client: Client) -> impl Stream<Item = Option<Service>> {
    let config = watcher::Config::default()
        .labels("!service.kubernetes.io/service-proxy-name")
        .fields("spec.clusterIP!=None")
        .streaming_lists();
    changes(watcher(Api::all(client), config))
}

fn slices(client: Client) -> impl Stream<Item = Option<EndpointSlice>> + Send {
    let config = watcher::Config::default().labels("!service.kubernetes.io/headless").streaming_lists();
    changes(watcher(Api::all(client), config))
}

/// Yields `None` when a list is complete, then each new or changed object.
fn changes<K>(stream: impl Stream<Item = watcher::Result<Event<K>>>) -> impl Stream<Item = Option<K>> {
    stream.filter_map(|event| async {
        match event {
            Ok(Event::InitDone) => Some(None),
            Ok(Event::Apply(object)) => Some(Some(object)),
            Ok(Event::Init | Event::InitApply(_) | Event::Delete(_)) => None,
            Err(error) => {
                eprintln!("bare client: {error}");
                None
            }
        }
    })
}
