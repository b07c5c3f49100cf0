//! Each metric, by who counts: the loop ([`ours`], [`kube_proxy`], [`rest`]), or whatever is read at a scrape
//! ([`traffic`], [`sources`], [`process`]).

pub mod kube_proxy;
pub mod no_local;
pub mod ours;
pub mod process;
mod registry;
pub mod rest;
pub mod sources;
pub mod traffic;

use std::sync::Arc;

use prometheus::Registry;

use crate::source::progress::Progress;
use sources::Sources;
use traffic::Traffic;

/// Adds what is read at each scrape: traffic, the own process, and the sources of objects.
///
/// # Errors
/// Where it was done before.
pub fn register_scraped(
    registry: &Registry,
    traffic: Traffic,
    sources: &Arc<Progress>,
) -> anyhow::Result<()> {
    process::register(registry)?;
    registry.register(Box::new(traffic))?;
    registry.register(Box::new(Sources::new(Arc::clone(sources))?))?;
    Ok(())
}
