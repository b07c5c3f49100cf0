//! `lb flows`: the tracked connections.

use std::collections::BTreeMap;

use lb_common::{Action, Flow, FlowKey, Phase, Proto, TICK_SHIFT};
use serde::Serialize;

use super::args::FlowArgs;
use super::output::print;
use super::view::columns::render;
use crate::dataplane::maps::Maps;
use crate::dataplane::pins::Pins;
use crate::dataplane::sweep;
use crate::objects::name::ServicePortName;
use crate::objects::wire::authority;

/// Prints the flows in the kernel's tables.
///
/// # Errors
/// If there are no tables, or a map cannot be read.
pub fn run(args: &FlowArgs) -> anyhow::Result<()> {
    let maps = Maps::open(&Pins::new(&args.pins.pin_dir), false)?;
    let flows = read(&maps, args.direct)?;
    print(args.output.output, &flows, || table(&flows))
}

/// A flow, as `lb flows -o json` shows it (docs/output.md).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowView {
    pub protocol: String,
    pub client: String,
    /// The address and port to which the client connected.
    pub destination: String,
    /// The address and port to which the packets go.
    pub backend: String,
    /// The source that the backend sees.
    pub source: String,
    /// `namespace/name:port`; absent for a direct connection to a backend's own address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    pub phase: &'static str,
    pub action: &'static str,
    pub age_seconds: u64,
    pub idle_seconds: u64,
    pub syn_count: u8,
}

fn phase_name(phase: u8) -> &'static str {
    match Phase::from_number(phase) {
        Some(Phase::New) => "new",
        Some(Phase::Replied) => "replied",
        Some(Phase::Assured) => "assured",
        Some(Phase::Closing) => "closing",
        Some(Phase::Closed) => "closed",
        None => "unknown",
    }
}

fn action_name(action: u8) -> &'static str {
    match Action::from_number(action) {
        Some(Action::Stack) => "stack",
        Some(Action::Hairpin) => "hairpin",
        None => "unknown",
    }
}

/// Converts ticks to seconds.
fn seconds(ticks: u32) -> u64 {
    (u64::from(ticks) << TICK_SHIFT) / 1_000_000_000
}

/// Every flow, by its forward entry. Direct flows, which belong to no service, are included only if `direct` is set.
///
/// # Errors
/// If a map cannot be read.
pub fn read(maps: &Maps, direct: bool) -> anyhow::Result<Vec<FlowView>> {
    let mut names = BTreeMap::new();
    for entry in maps.names.iter() {
        let (id, name) = entry?;
        names.insert(
            id,
            ServicePortName::from_table(&name).map_or_else(|| id.to_string(), |name| name.to_string()),
        );
    }
    let now = sweep::now();
    let mut flows = Vec::new();
    maps.for_each_flow(|key, flow| {
        let shown = flow.flags & Flow::REVERSE == 0 && (direct || flow.service != Flow::NONE);
        if shown {
            flows.push((*key, view(key, flow, now, &names)));
        }
    })?;
    flows.sort_by_key(|(key, _)| *key);
    Ok(flows.into_iter().map(|(_, view)| view).collect())
}

fn view(key: &FlowKey, flow: &Flow, now: u32, names: &BTreeMap<u32, String>) -> FlowView {
    FlowView {
        protocol: Proto::from_number(key.proto).map_or_else(|| key.proto.to_string(), |p| p.to_string()),
        client: authority(key.src, key.sport),
        destination: authority(key.dst, key.dport),
        backend: authority(flow.dst.addr, flow.dst.port),
        source: authority(flow.src.addr, flow.src.port),
        service: (flow.service != Flow::NONE).then(|| {
            names.get(&flow.service).cloned().unwrap_or_else(|| format!("removed service {}", flow.service))
        }),
        phase: phase_name(flow.phase),
        action: action_name(flow.action),
        age_seconds: seconds(now.saturating_sub(flow.first_seen)),
        idle_seconds: seconds(now.saturating_sub(flow.last_seen)),
        syn_count: flow.syn_count,
    }
}

/// The table of `lb flows`.
pub fn table(flows: &[FlowView]) -> String {
    let rows: Vec<[String; 8]> = flows
        .iter()
        .map(|flow| {
            [
                flow.protocol.clone(),
                flow.client.clone(),
                flow.destination.clone(),
                flow.backend.clone(),
                flow.service.clone().unwrap_or_else(|| "(direct)".to_owned()),
                if flow.action == "stack" {
                    flow.phase.to_owned()
                } else {
                    format!("{} {}", flow.phase, flow.action)
                },
                format!("{}s", flow.age_seconds),
                format!("{}s", flow.idle_seconds),
            ]
        })
        .collect();
    render(["PROTO", "CLIENT", "DESTINATION", "BACKEND", "SERVICE", "PHASE", "AGE", "IDLE"], &rows)
}
