//! The tables that a folder of manifests would give on a node.

use std::path::Path;

use crate::manifests;
use crate::model::{Model, Notice};
use crate::plan::{Limits, Planner};
use crate::plane::{MemoryPlane, Plane};
use crate::tables::Tables;

/// Plans from empty tables, in memory. The notices are those that last.
///
/// # Errors
/// Where the folder cannot be read, or a file in it is broken.
pub fn tables_from_manifests(dir: &Path, node_name: &str) -> anyhow::Result<(Tables, Vec<Notice>)> {
    let mut model = Model::new(node_name);
    for event in manifests::load_dir(dir)? {
        model.apply(event);
    }
    let mut planner = Planner::restore(Tables::default(), Limits::default());
    let mut plane = MemoryPlane::default();
    plane.apply(&planner.plan(model.desired()).ops)?;
    let notices = model.notices().chain(planner.notices()).cloned().collect();
    Ok((plane.into_tables(), notices))
}
