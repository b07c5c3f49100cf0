//! The tables that a node would have with a folder of manifests.

use std::path::Path;

use lb_common::Addr;

use crate::model::{Model, Rules};
use crate::objects::event::Event;
use crate::objects::notice::Notice;
use crate::plan::{Limits, Planner};
use crate::source::manifests;
use crate::tables::Tables;
use crate::tables::plane::{MemoryPlane, Plane};

/// The node as an agent on it would see it.
#[derive(Clone, Debug, Default)]
pub struct Viewpoint {
    pub name: String,
    /// The addresses of its interfaces. `None`: the InternalIPs of its Node object.
    pub addresses: Option<Vec<Addr>>,
    pub rules: Rules,
}

impl Viewpoint {
    /// A viewpoint with no more than the name of the node.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

/// The model of a folder, with everything decided.
///
/// # Errors
/// If the folder cannot be read, or a file in it is broken.
pub fn model_from_manifests(dir: &Path, at: Viewpoint) -> anyhow::Result<Model> {
    Ok(load(dir, at)?.0)
}

/// The tables of a folder, planned from empty tables in memory, and the notices that still hold.
///
/// # Errors
/// If the folder cannot be read, or a file in it is broken.
pub fn tables_from_manifests(dir: &Path, at: Viewpoint) -> anyhow::Result<(Tables, Vec<Notice>)> {
    let (model, desired) = load(dir, at)?;
    let mut planner = Planner::restore(Tables::default(), Limits::default());
    let mut plane = MemoryPlane::default();
    plane.apply(&planner.plan(desired).ops)?;
    let notices = model.notices().chain(planner.notices()).cloned().collect();
    Ok((plane.into_tables(), notices))
}

fn load(dir: &Path, at: Viewpoint) -> anyhow::Result<(Model, crate::desired::Desired)> {
    let mut model = Model::with_rules(at.name, at.rules);
    for event in manifests::load_dir(dir)? {
        model.apply(event);
    }
    let own = model.node().map(|node| node.internal_ips.clone()).unwrap_or_default();
    model.apply(Event::Addresses(at.addresses.unwrap_or(own).into_iter().collect()));
    let desired = model.desired();
    Ok((model, desired))
}
