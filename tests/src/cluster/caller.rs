//! A client of the API inside a namespace.

use std::path::Path;
use std::sync::mpsc;

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::runtime::{Builder, Runtime};

use crate::world::Netns;

/// A socket belongs to the namespace of the thread that makes it, so the runtime's own thread does all work.
pub struct Caller {
    runtime: Runtime,
    client: Option<Client>,
}

impl Caller {
    /// Makes a client from a kubeconfig, without sending a request.
    pub fn connected(netns: &Netns, kubeconfig: &Path) -> Result<Self> {
        let mut caller = Self::new(netns)?;
        caller.connect(kubeconfig)?;
        Ok(caller)
    }

    pub(super) fn new(netns: &Netns) -> Result<Self> {
        // A new thread is in the namespace of the thread that starts it.
        let build = || Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Ok(Self { runtime: netns.enter(build).context("no runtime for the client")?, client: None })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.client.is_some()
    }

    pub(super) fn connect(&mut self, kubeconfig: &Path) -> Result<()> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let connect = async move {
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            Ok(Client::try_from(config)?)
        };
        self.client = Some(self.wait(connect)?);
        Ok(())
    }

    pub(super) fn disconnect(&mut self) {
        self.client = None;
    }

    /// Runs work that needs the client, and waits until it is done.
    pub fn run<F, T>(&self, work: impl FnOnce(Client) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        let client = self.client.clone().context("kube-apiserver was never ready")?;
        self.wait(work(client))
    }

    fn wait<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let (done, result) = mpsc::sync_channel(1);
        self.runtime.spawn(async move { done.send(work.await) });
        // Nothing is sent if the work panicked.
        result.recv().context("the work of a client panicked")?
    }
}
