//! `lb backends`.

use std::collections::BTreeSet;

use lb_common::SlotRange;
use serde::Serialize;

use super::args::ViewArgs;
use super::output::{pinned, print, tell};
use super::view::columns;
use super::view::files;
use crate::objects::name::ServicePortName;
use crate::objects::wire::authority;
use crate::tables::Tables;
use crate::tables::op::state_name;

/// Prints the backends of the tables or of a folder.
///
/// # Errors
/// If the tables or the folder cannot be read.
pub fn run(args: &ViewArgs) -> anyhow::Result<()> {
    let tables = match args.files()? {
        Some((dir, at)) => {
            let (tables, notices) = files::tables_from_manifests(dir, at)?;
            tell(&notices);
            tables
        }
        None => pinned(&args.pins)?,
    };
    let backends = of_tables(&tables);
    print(args.output.output, &backends, || table(&backends))
}

/// One endpoint of one service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendView {
    pub id: u32,
    pub namespace: String,
    pub name: String,
    /// Empty if the Service has one unnamed port.
    pub port_name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// `address:port`.
    pub address: String,
    /// `active`, or `draining`: the endpoint terminates or does not serve, and keeps its flows.
    pub state: String,
    /// Counts the uses of the id.
    pub generation: u32,
    pub weight: u16,
    /// Of `cluster` and `local`, the sets that list the backend. If empty, the backend only keeps its flows.
    pub sets: Vec<String>,
}

/// Every backend in use, sorted by service and address. Backends of a service without a readable name are left
/// out.
pub fn of_tables(tables: &Tables) -> Vec<BackendView> {
    let mut rows = Vec::new();
    let ids = |range: SlotRange| -> BTreeSet<u32> {
        tables.slots_of(range).unwrap_or_default().iter().map(|slot| slot.backend).collect()
    };
    let services: std::collections::BTreeMap<u32, (ServicePortName, [BTreeSet<u32>; 2])> = tables
        .names
        .iter()
        .filter_map(|(id, name)| {
            let record = tables.record(*id);
            Some((*id, (ServicePortName::from_table(name)?, [ids(record.cluster), ids(record.local)])))
        })
        .collect();
    for (id, backend) in tables.backends.iter().filter(|(_, b)| !b.is_free()) {
        let Some((name, sets)) = services.get(&backend.service) else { continue };
        let listed = ["cluster", "local"].into_iter().zip(sets).filter(|(_, set)| set.contains(id));
        let view = BackendView {
            id: *id,
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            port_name: name.port.to_string(),
            protocol: name.proto.to_string(),
            family: name.family.to_string(),
            address: authority(backend.addr, backend.port),
            state: state_name(backend.state).to_owned(),
            generation: backend.generation,
            weight: backend.weight,
            sets: listed.map(|(set, _)| set.to_owned()).collect(),
        };
        rows.push(((name, backend.addr, backend.port), view));
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows.into_iter().map(|(_, view)| view).collect()
}

/// The table of `lb backends`.
pub fn table(backends: &[BackendView]) -> String {
    let rows: Vec<[String; 8]> = backends
        .iter()
        .map(|backend| {
            let port = if backend.port_name.is_empty() { "-" } else { &backend.port_name };
            [
                backend.id.to_string(),
                format!("{}/{}", backend.namespace, backend.name),
                format!("{port} {}", backend.protocol),
                backend.address.clone(),
                backend.state.clone(),
                if backend.sets.is_empty() { "-".to_owned() } else { backend.sets.join(",") },
                backend.weight.to_string(),
                backend.generation.to_string(),
            ]
        })
        .collect();
    columns::render(["ID", "SERVICE", "PORT", "ADDRESS", "STATE", "SETS", "WEIGHT", "GENERATION"], &rows)
}
