//! Tells `lb status`, over an abstract Unix socket, what only the running agent knows: the age of its state, its
//! complaints, and the roles that were given to links.
//!
//! The socket's name is derived from the identity of the pin folder, so that every spelling of the folder's path leads
//! to it. Abstract sockets belong to a network namespace, as the agent's links do. Only root gets an answer.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tracing::debug;

use super::health::Eligibility;
use super::moment::Moment;
use super::telemetry::Telemetry;
use crate::node::role::Overrides;
use crate::objects::name::Kind;
use crate::source::progress::Progress;

/// How long `lb status` waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the previous agent may take to end after it released the lock.
const HANDOVER: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(20);

/// The agent's part of `lb status -o json` (docs/output.md).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    pub version: String,
    pub pid: u32,
    /// RFC 3339.
    pub since: String,
    pub node_name: String,
    /// The source of objects: an address, or a folder.
    pub source: String,
    /// The roles given by `--link-role`.
    pub link_roles: Overrides,
    /// Whether the agent is healthy, as in `/livez`.
    pub healthy: bool,
    /// Whether load balancers may send traffic to this node, as in `/healthz`.
    pub node_eligible: bool,
    /// What is wrong, in words; empty if nothing is.
    pub complaints: Vec<String>,
    /// When the tables last matched the objects, RFC 3339; absent before the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated: Option<String>,
    /// The state of the source, by kind of object.
    pub kinds: BTreeMap<String, KindStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KindStatus {
    /// Time since the API server last sent anything of the kind, or the folder was checked; absent before the first
    /// time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
    /// For how long the watch has been interrupted; absent if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interrupted_seconds: Option<f64>,
    /// Why the watch is interrupted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastError {
    /// RFC 3339.
    pub at: String,
    pub text: String,
}

/// The facts that do not change while the agent runs.
#[derive(Clone, Debug)]
pub struct Identity {
    pub node_name: String,
    pub source: String,
    pub link_roles: Overrides,
    pub sources: Arc<Progress>,
}

/// Binds the socket, which [`serve`] then answers. Waits for an agent that is ending, because it releases the lock a
/// moment before the socket.
///
/// # Errors
/// If another process keeps the name.
pub async fn listen(pin_dir: &Path) -> anyhow::Result<UnixListener> {
    let address = address(pin_dir)?;
    let deadline = Instant::now() + HANDOVER;
    let listener = loop {
        match UnixListener::bind_addr(&address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(STEP).await;
            }
            outcome => break outcome.context("cannot bind the socket of `lb status`")?,
        }
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Answers until it is dropped. Must be called in a tokio runtime.
///
/// # Errors
/// If the runtime cannot use the listener, or a connection cannot be accepted.
pub async fn serve(
    listener: UnixListener,
    identity: Identity,
    telemetry: Arc<Telemetry>,
) -> anyhow::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        let asked_by = stream.peer_cred()?.uid();
        if asked_by != 0 {
            debug!("uid {asked_by} asked for the status: not answered");
            continue;
        }
        let text = serde_json::to_vec(&status(&identity, &telemetry, Moment::now()))?;
        // A client that does not read must not delay the next one.
        let _ = tokio::time::timeout(PATIENCE, stream.write_all(&text)).await;
    }
}

/// Asks the agent of a pin folder; `None` if no agent answers.
pub fn ask(pin_dir: &Path) -> Option<AgentStatus> {
    let mut stream = UnixStream::connect_addr(&address(pin_dir).ok()?).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn address(pin_dir: &Path) -> anyhow::Result<SocketAddr> {
    let folder = std::fs::metadata(pin_dir).with_context(|| pin_dir.display().to_string())?;
    Ok(SocketAddr::from_abstract_name(format!("lb-agent-{:x}-{:x}", folder.dev(), folder.ino()))?)
}

fn status(identity: &Identity, telemetry: &Telemetry, now: Moment) -> AgentStatus {
    telemetry.look_at_links(now);
    let kinds = Kind::ALL.map(|kind| {
        let status = KindStatus {
            age_seconds: identity.sources.age(kind).map(|age| age.as_secs_f64()),
            interrupted_seconds: identity.sources.failing(kind).map(|time| time.as_secs_f64()),
            fault: identity.sources.fault(kind),
        };
        (kind.to_string(), status)
    });
    let last_error =
        telemetry.last_error().map(|error| LastError { at: error.at.wall.to_string(), text: error.text });
    let status = AgentStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        since: telemetry.began().wall.to_string(),
        node_name: identity.node_name.clone(),
        source: identity.source.clone(),
        link_roles: identity.link_roles.clone(),
        healthy: false,
        node_eligible: false,
        complaints: Vec::new(),
        updated: None,
        kinds: kinds.into(),
        last_error,
    };
    telemetry.health(|health| AgentStatus {
        healthy: health.is_healthy(now),
        node_eligible: health.eligibility() == Eligibility::Eligible,
        complaints: health.complaints(now),
        updated: health.updated().map(|moment| moment.wall.to_string()),
        ..status
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_of_an_agent_that_is_about_to_end_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let before = listen(folder.path()).await.unwrap();
        let end = async {
            tokio::time::sleep(STEP * 5).await;
            drop(before);
        };
        let (after, ()) = tokio::join!(listen(folder.path()), end);
        after.unwrap();
    }
}
