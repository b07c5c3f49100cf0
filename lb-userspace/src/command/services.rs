//! `lb services`.

mod rules;

use lb_common::{FrontendKind, SlotRange};

pub use rules::of_model;

use super::args::ViewArgs;
use super::output::{pinned, print, tell};
use super::view::columns;
use super::view::files;
use crate::command::view::shape::frontend;
use crate::command::view::shape::{FrontendView, ServiceView};
use crate::objects::name::ServicePortName;
use crate::objects::wire::authority;
use crate::tables::Tables;

/// Prints the service ports of the tables or of a folder.
///
/// # Errors
/// If the tables or the folder cannot be read.
pub fn run(args: &ViewArgs) -> anyhow::Result<()> {
    let services = match args.files()? {
        Some((dir, at)) => {
            let model = files::model_from_manifests(dir, at)?;
            tell(model.notices());
            of_model(&model)
        }
        None => of_tables(&pinned(&args.pins)?),
    };
    print(args.output.output, &services, || table(&services))
}

/// Every service port in the tables, sorted by name. An id whose name cannot be read is left out.
pub fn of_tables(tables: &Tables) -> Vec<ServiceView> {
    let mut frontends: std::collections::BTreeMap<u32, Vec<FrontendView>> = std::collections::BTreeMap::new();
    for (key, entry) in &tables.frontends {
        let record = tables.record(entry.service);
        let has_sets = (record.cluster.len > 0, record.local.len > 0);
        // A frontend of an unknown kind was written by a newer version: at least its address is shown.
        let kind = FrontendKind::from_number(entry.kind).unwrap_or(FrontendKind::Cluster);
        let view = frontend(key, kind, record.flags, has_sets);
        frontends.entry(entry.service).or_default().push(view);
    }
    let mut named: Vec<(ServicePortName, u32)> = tables
        .names
        .iter()
        .filter_map(|(id, name)| Some((ServicePortName::from_table(name)?, *id)))
        .collect();
    named.sort();
    named
        .into_iter()
        .map(|(name, id)| {
            let record = tables.record(id);
            let frontends = frontends.remove(&id).unwrap_or_default();
            let (cluster, local) = (endpoints(tables, record.cluster), endpoints(tables, record.local));
            ServiceView::new(&name, &record, frontends, cluster, local)
        })
        .collect()
}

/// The table of `lb services`, with a line for each endpoint.
pub fn table(services: &[ServiceView]) -> String {
    let rows: Vec<[String; 9]> = services
        .iter()
        .map(|service| {
            let unserved = service.rules.as_ref().and_then(|rules| rules.unserved.as_ref());
            let frontends: Vec<String> = match unserved {
                Some(why) => vec![format!("not served: {why}")],
                None => service.frontends.iter().map(|f| format!("{} {}", f.kind, f.address)).collect(),
            };
            let clients: Vec<String> = service.frontends.iter().map(|f| f.clients.text()).collect();
            let affinity = match service.session_affinity.timeout_seconds {
                Some(seconds) => format!("{} {seconds}s", service.session_affinity.kind),
                None => "-".to_owned(),
            };
            let policy = format!("{}/{}", service.internal_traffic_policy, service.external_traffic_policy);
            let port = if service.port_name.is_empty() { "-" } else { &service.port_name };
            [
                format!("{}/{}", service.namespace, service.name),
                format!("{port} {}", service.protocol),
                columns::list(&frontends),
                columns::list(&clients),
                columns::list(&service.cluster_endpoints),
                columns::list(&service.local_endpoints),
                policy,
                affinity,
                service.algorithm.clone(),
            ]
        })
        .collect();
    columns::render(
        [
            "SERVICE",
            "PORT",
            "FRONTENDS",
            "CLIENTS GET",
            "ENDPOINTS",
            "LOCAL",
            "POLICY INT/EXT",
            "AFFINITY",
            "ALGORITHM",
        ],
        &rows,
    )
}

fn endpoints(tables: &Tables, range: SlotRange) -> Vec<String> {
    let slots = tables.slots_of(range).unwrap_or_default();
    let mut backends: Vec<_> =
        slots.iter().filter_map(|slot| tables.backend_of(*slot)).map(|b| (b.addr, b.port)).collect();
    backends.sort();
    backends.into_iter().map(|(addr, port)| authority(addr, port)).collect()
}
