//! `lb cleanup`: removes what is ours, or what kube-proxy left.

pub mod kube_proxy;
mod own;

use std::io::Write;

use super::args::CleanupArgs;
use kube_proxy::Cleanup;
use kube_proxy::host::Host;

/// Cleans up, and prints what was done.
///
/// # Errors
/// If something cannot be removed, or is still in use.
pub async fn run(args: CleanupArgs) -> anyhow::Result<()> {
    let CleanupArgs { pins, kube_proxy, dry_run, force, host_root } = args;
    let done = if kube_proxy {
        Cleanup { dry_run, force, host: Host { root: host_root } }.run().await?
    } else {
        own::clean_up(&pins.pin_dir).await?
    };
    Ok(writeln!(std::io::stdout(), "{done}")?)
}
