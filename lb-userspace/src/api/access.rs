//! From options, files and environment to an address and credentials.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::Config;

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
pub(super) async fn read(config: &Config) -> anyhow::Result<kube::Config> {
    let server = config.server.as_deref().map(url).transpose()?;
    let mut access = match (&config.kubeconfig, server.clone()) {
        (Some(path), _) => kubeconfig(path).await?,
        (None, server) if is_in_pod() => in_cluster(server)?,
        (None, Some(server)) => kube::Config::new(server),
        (None, None) => bail!(
            "no API server is known: give --kubeconfig FILE, or --api-server URL, or run in a pod with a service \
             account ({TOKEN} is not there); or give --manifests DIR and do without"
        ),
    };
    if let Some(server) = server {
        access.cluster_url = server;
    }
    if let Some(proxy) = &access.proxy_url {
        bail!(
            "proxy-url {proxy} of the kubeconfig is not supported: give an address that is reached directly"
        );
    }
    Ok(access)
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
    let mut access = kube::Config::incluster_dns().context("the service account of this pod")?;
    access.cluster_url = match server {
        Some(server) => server,
        None => {
            let variable = |name| {
                std::env::var(name).with_context(|| format!("{name} is not set: give --api-server URL"))
            };
            url(&authority(&variable(HOST)?, &variable(PORT)?))?
        }
    };
    Ok(access)
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
