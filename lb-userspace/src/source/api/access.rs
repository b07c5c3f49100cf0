//! Finds the API server's address and the credentials in options, files and the environment.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};

/// How to reach the API server, and with which credentials.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// `None` means the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// A URL or `host:port`, which overrides the address in the kubeconfig or the environment.
    pub server: Option<String>,
    pub times: Times,
    /// Counts the requests, if given.
    pub requests: Option<Arc<dyn CountRequests>>,
}

/// Counts requests to the API server.
pub trait CountRequests: fmt::Debug + Send + Sync {
    /// Counts one request, and the time until its answer began. `code` is `None` if there was no answer.
    fn count(&self, method: &str, host: &str, code: Option<u16>, took: Duration);
}

/// Timeouts and intervals. Tests use shorter ones.
#[derive(Clone, Debug)]
pub struct Times {
    /// Limit for making a connection.
    pub connect: Duration,
    /// Limit until an answer begins, and between two parts of a list.
    pub answer: Duration,
    /// A PING is sent on a connection that has received nothing for this long (client-go's
    /// `HTTP2_READ_IDLE_TIMEOUT_SECONDS`).
    pub ping: Duration,
    /// Limit for the answer to the PING (`HTTP2_PING_TIMEOUT_SECONDS`).
    pub pong: Duration,
    /// The longest pause between two attempts.
    pub retry: Duration,
    /// After a longer interruption, a watch lists again instead of resuming, because an etcd may have been restored
    /// meanwhile. (After a restart of the server most watches list again anyway, because the server does not know
    /// earlier changes.)
    pub resume: Duration,
    /// Pause before a list that lost more than half is requested again.
    pub confirm: Duration,
    /// Limit until the agent's own Node object exists. After that, everything that needs no Node is served (kube-proxy:
    /// pkg/proxy/node.go).
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

const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";
/// The token of the service account in every pod.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

pub(super) fn is_in_pod() -> bool {
    Path::new(TOKEN).exists()
}

/// Reads everything again, because token, certificates and address may have changed.
///
/// # Errors
/// If something is missing or cannot be read. The error names it, and the option that helps.
pub(super) async fn read(access: &Access) -> anyhow::Result<kube::Config> {
    let server = access.server.as_deref().map(url).transpose()?;
    let mut config = match (&access.kubeconfig, server.clone()) {
        (Some(path), _) => kubeconfig(path).await?,
        (None, server) if is_in_pod() => in_cluster(server)?,
        (None, Some(server)) => kube::Config::new(server),
        (None, None) => bail!(
            "no API server is known: give --kubeconfig FILE or --api-server URL, run in a pod with a service account \
             ({TOKEN} does not exist), or use --manifests DIR instead of an API server"
        ),
    };
    if let Some(server) = server {
        config.cluster_url = server;
    }
    if let Some(proxy) = &config.proxy_url {
        bail!(
            "proxy-url {proxy} of the kubeconfig is not supported: give an address that can be reached directly"
        );
    }
    Ok(config)
}

async fn kubeconfig(path: &PathBuf) -> anyhow::Result<kube::Config> {
    let file = Kubeconfig::read_from(path)
        .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
    kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("cannot use the kubeconfig {}", path.display()))
}

/// kube reads the address and the files in one step, but the variables may be missing if `server` is given.
fn in_cluster(server: Option<http::Uri>) -> anyhow::Result<kube::Config> {
    let mut config = kube::Config::incluster_dns().context("cannot use the service account of this pod")?;
    config.cluster_url = match server {
        Some(server) => server,
        None => {
            let variable = |name| {
                std::env::var(name).with_context(|| format!("{name} is not set: give --api-server URL"))
            };
            url(&authority(&variable(HOST)?, &variable(PORT)?))?
        }
    };
    Ok(config)
}

fn authority(host: &str, port: &str) -> String {
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// Uses `https` if `text` has no scheme.
fn url(text: &str) -> anyhow::Result<http::Uri> {
    let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let uri: http::Uri =
        full.parse().with_context(|| format!("\"{text}\" is not the URL of an API server"))?;
    if uri.host().is_none() || !matches!(uri.scheme_str(), Some("http" | "https")) {
        bail!("\"{text}\" is not the URL of an API server: https://HOST:PORT is expected");
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::{authority, url};

    #[test]
    fn an_address_alone_is_https() {
        assert_eq!(url("10.0.0.1:6443").unwrap(), "https://10.0.0.1:6443");
        assert_eq!(url(&authority("fd00::1", "443")).unwrap(), "https://[fd00::1]:443");
        assert_eq!(url("http://127.0.0.1:8080").unwrap(), "http://127.0.0.1:8080");
        let error = url("ftp://a").unwrap_err().to_string();
        assert_eq!(error, "\"ftp://a\" is not the URL of an API server: https://HOST:PORT is expected");
    }
}
