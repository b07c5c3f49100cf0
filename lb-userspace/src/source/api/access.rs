//! From options, files and environment to an address and credentials.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};

/// Where the API server is, and who we are to it.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// None: the service account of a pod.
    pub kubeconfig: Option<PathBuf>,
    /// Overrides the address of the kubeconfig, or of the environment: a URL, or `host:port`.
    pub server: Option<String>,
    pub times: Times,
    /// What requests are counted into.
    pub requests: Option<Arc<dyn CountRequests>>,
}

/// What counts requests to the API server.
pub trait CountRequests: fmt::Debug + Send + Sync {
    /// One request, until its answer began. No code: there was no answer.
    fn count(&self, method: &str, host: &str, code: Option<u16>, took: Duration);
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

const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";
/// Where every pod finds the token of its service account.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

pub(super) fn is_in_pod() -> bool {
    Path::new(TOKEN).exists()
}

/// Reads everything anew: token, certificates and address may have changed.
///
/// # Errors
/// Names what is missing or cannot be read, and which option helps.
pub(super) async fn read(access: &Access) -> anyhow::Result<kube::Config> {
    let server = access.server.as_deref().map(url).transpose()?;
    let mut config = match (&access.kubeconfig, server.clone()) {
        (Some(path), _) => kubeconfig(path).await?,
        (None, server) if is_in_pod() => in_cluster(server)?,
        (None, Some(server)) => kube::Config::new(server),
        (None, None) => bail!(
            "no API server is known: give --kubeconfig FILE, or --api-server URL, or run in a pod with a service \
             account ({TOKEN} is not there); or give --manifests DIR and do without"
        ),
    };
    if let Some(server) = server {
        config.cluster_url = server;
    }
    if let Some(proxy) = &config.proxy_url {
        bail!(
            "proxy-url {proxy} of the kubeconfig is not supported: give an address that is reached directly"
        );
    }
    Ok(config)
}

async fn kubeconfig(path: &PathBuf) -> anyhow::Result<kube::Config> {
    let file = Kubeconfig::read_from(path)
        .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
    kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("the kubeconfig {}", path.display()))
}

/// kube reads the address and the files in one step; with an address of our own, the variables may be missing.
fn in_cluster(server: Option<http::Uri>) -> anyhow::Result<kube::Config> {
    let mut config = kube::Config::incluster_dns().context("the service account of this pod")?;
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

/// `https` where no scheme is given.
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
