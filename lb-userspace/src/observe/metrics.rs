//! The metrics: those that the agent counts as it runs ([`ours`], [`kube_proxy`], [`rest`]), and those that are read at
//! each scrape ([`traffic`], [`sources`], [`process`]).

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

/// Registers what is read at each scrape: traffic, the agent's process, and the sources of objects.
///
/// # Errors
/// If this was already done.
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
