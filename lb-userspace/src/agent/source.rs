//! The source of objects that the agent follows: a folder of manifests or an API server.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::mpsc;

use crate::objects::event::Event;
use crate::observe::telemetry::Telemetry;
use crate::source::progress::Progress;
use crate::source::{api, manifests};
use crate::tables::Tables;

/// Where the objects come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// A Kubernetes API server.
    Api(api::Access),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Manifests(dir) => write!(f, "folder {}", dir.display()),
            Self::Api(api::Access { server: Some(server), .. }) => write!(f, "API server {server}"),
            Self::Api(api::Access { kubeconfig: Some(file), .. }) => {
                write!(f, "API server of {}", file.display())
            }
            Self::Api(_) => f.write_str("API server of the pod's cluster"),
        }
    }
}

impl Source {
    /// Fails if the source cannot be followed, as far as this can be seen before anything is created.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if let Self::Manifests(dir) = self {
            std::fs::read_dir(dir).with_context(|| format!("cannot read the folder {}", dir.display()))?;
        }
        Ok(())
    }

    /// Starts to follow the source. `tables` are those that an earlier agent left.
    pub(super) async fn watch(
        self,
        node_name: &str,
        telemetry: &Telemetry,
        tables: &Tables,
    ) -> anyhow::Result<(Watch, mpsc::Receiver<Event>)> {
        let (events_in, events) = mpsc::channel(1024);
        let watch = match self {
            Self::Manifests(dir) => Watch::Manifests(manifests::watch(dir, events_in)?),
            Self::Api(access) => {
                let access = api::Access { requests: Some(Arc::new(telemetry.rest_client())), ..access };
                Watch::Api(api::watch(access, node_name, tables, events_in).await?)
            }
        };
        Ok((watch, events))
    }
}

/// Follows a source until it is dropped.
pub(super) enum Watch {
    Manifests(manifests::Watch),
    Api(api::Watch),
}

impl Watch {
    pub(super) fn progress(&self) -> Arc<Progress> {
        match self {
            Self::Manifests(watch) => Arc::clone(&watch.progress),
            Self::Api(watch) => Arc::clone(&watch.progress),
        }
    }

    /// The client of the API server, if objects come from one.
    pub(super) fn client(&self) -> Option<kube::Client> {
        match self {
            Self::Manifests(_) => None,
            Self::Api(watch) => Some(watch.client.clone()),
        }
    }

    /// Tells the connection to the API server the current tables, so that it finds the server through them.
    pub(super) fn learn(&self, tables: &Tables) {
        if let Self::Api(watch) = self {
            watch.route.learn(tables);
        }
    }
}
