//! `lb status`: the agent, the programs on links, the use of the tables, and the counters.

use anyhow::Context;
use lb_common::{Counter, SCHEMA, capacity};
use serde::Serialize;

use super::args::StatusArgs;
use super::output::print;
use super::view::columns::render;
use crate::dataplane::hook::Hook;
use crate::dataplane::hook::cgroup;
use crate::dataplane::hook::place::is_ours;
use crate::dataplane::lock;
use crate::dataplane::maps::{Maps, SocketTable};
use crate::dataplane::pins::Pins;
use crate::dataplane::sweep::Flows;
use crate::node::netdev::{Direction, Netdev};
use crate::node::role::{Overrides, Role, role};
use crate::observe::status_socket::{self, AgentStatus};

/// Prints the status.
///
/// # Errors
/// The errors of [`read`], or of standard output.
pub async fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let status = read(&Pins::new(&args.pins.pin_dir), &args.roles.overrides()).await?;
    print(args.output.output, &status, || text(&status))
}

/// The status as `lb status -o json` shows it (docs/output.md).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The version of the tables' layout.
    pub schema: u32,
    /// Whether an agent holds the pin folder.
    pub agent_running: bool,
    /// What the agent itself reports; absent if no agent answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentStatus>,
    pub links: Vec<LinkStatus>,
    /// The cgroup whose processes are served at their sockets; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_sockets: Option<HostSocketStatus>,
    pub tables: Vec<Fill>,
    /// Counters that are not zero, by name.
    pub counters: Vec<Count>,
}

#[derive(Debug, Serialize)]
pub struct LinkStatus {
    pub index: u32,
    pub name: String,
    pub role: Role,
    /// Why the link has the role, in words.
    pub reason: &'static str,
    /// Absent if no program of ours is attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<Hook>,
}

#[derive(Debug, Serialize)]
pub struct HostSocketStatus {
    /// The kernel's number of the cgroup v2; 1 is the root.
    pub cgroup: u64,
    /// The number of programs attached to the cgroup; all are 8.
    pub programs: usize,
}

#[derive(Debug, Serialize)]
pub struct Fill {
    pub name: &'static str,
    pub used: usize,
    pub capacity: usize,
}

#[derive(Debug, Serialize)]
pub struct Count {
    pub name: &'static str,
    pub value: u64,
}

/// Reads the pinned tables and the links of this network namespace, and asks the agent. If `overrides` is empty, the
/// overrides of the agent apply.
///
/// # Errors
/// If there are no tables, or a map or the links cannot be read.
pub async fn read(pins: &Pins, overrides: &Overrides) -> anyhow::Result<Status> {
    let maps = Maps::open(pins, false)?;
    let tables = crate::dataplane::read(&maps)?;
    let (mut entries, mut flows) = (0, Flows::default());
    maps.for_each_flow(|key, flow| {
        entries += 1;
        flows.count(key, flow);
    })?;
    let affinity = maps.affinity.keys().filter(Result::is_ok).count();
    let sockets = SocketTable::open(pins, &maps)?.used()?;
    let in_use = tables.backends.values().filter(|b| !b.is_free()).count();
    let sizes = maps.sizes()?;
    let fill = |name, used, capacity| Fill { name, used, capacity };
    let counters = Counter::ALL
        .into_iter()
        .map(|counter| Ok(Count { name: counter.name(), value: maps.counter(counter)? }))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let agent = status_socket::ask(pins.root());
    let overrides = match &agent {
        Some(agent) if overrides.is_empty() => &agent.link_roles,
        _ => overrides,
    };
    Ok(Status {
        schema: SCHEMA,
        agent_running: lock::is_taken(pins),
        links: links(pins, overrides).await.context("list links")?,
        host_sockets: cgroup::attached(pins)?.map(|(cgroup, programs)| HostSocketStatus { cgroup, programs }),
        tables: vec![
            fill("frontends", tables.frontends.len(), capacity::FRONTENDS),
            fill("local_addrs", tables.local_addrs.len(), capacity::LOCAL_ADDRS),
            fill("service_ranges", tables.ranges.len(), capacity::SERVICE_RANGES),
            fill(
                "source_ranges",
                tables.source_ranges.values().map(std::collections::BTreeSet::len).sum(),
                capacity::SOURCE_RANGES,
            ),
            fill("affinity", affinity, capacity::AFFINITY),
            fill("sockets", sockets, capacity::SOCKETS),
            fill("services", tables.names.len(), capacity::SERVICES),
            fill("slots", tables.slots.len(), capacity::SLOTS),
            fill("backends", in_use, capacity::BACKENDS),
            fill("flows", entries, sizes.flows as usize),
        ]
        .into_iter()
        .chain(flows.fills(sizes).map(|(name, used, capacity)| fill(name, used, capacity)))
        .collect(),
        agent,
        counters: counters.into_iter().filter(|count| count.value != 0).collect(),
    })
}

async fn links(pins: &Pins, overrides: &Overrides) -> anyhow::Result<Vec<LinkStatus>> {
    let (netdev, _) = Netdev::connect()?;
    let pinned = pins.linked()?;
    let mut links = Vec::new();
    for facts in netdev.links().await? {
        let (role, reason) = role(&facts, overrides);
        // The program at ingress is attached last.
        let ingress = (facts.index, Direction::Ingress.name().to_owned());
        let hook = if pinned.contains(&ingress) {
            Some(Hook::Tcx)
        } else {
            let filters = netdev.filters(facts.index, Direction::Ingress).await?;
            filters.iter().any(is_ours).then_some(Hook::Clsact)
        };
        links.push(LinkStatus { index: facts.index, name: facts.name, role, reason, hook });
    }
    Ok(links)
}

fn agent_text(agent: &AgentStatus) -> String {
    let mut lines = vec![
        format!("agent   running since {}, version {}, process {}", agent.since, agent.version, agent.pid),
        format!("node    {}", agent.node_name),
        format!("source  {}", agent.source),
    ];
    if !agent.link_roles.is_empty() {
        let roles: Vec<String> =
            agent.link_roles.iter().map(|(link, role)| format!("{link}={role}")).collect();
        lines.push(format!("roles   {} (--link-role)", roles.join(" ")));
    }
    let health = if agent.healthy { "healthy" } else { "not healthy" };
    let eligible = if agent.node_eligible { "node eligible" } else { "node not eligible" };
    lines.push(format!("health  {health}, {eligible}"));
    lines.extend(agent.complaints.iter().map(|complaint| format!("        {complaint}")));
    if let Some(error) = &agent.last_error {
        lines.push(format!("error   {} {}", error.at, error.text));
    }
    let kinds: Vec<[String; 4]> = agent
        .kinds
        .iter()
        .map(|(kind, status)| {
            let seconds =
                |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |time| format!("{time:.1} s"));
            let fault = status.fault.clone().unwrap_or_else(|| "-".to_owned());
            [kind.clone(), seconds(status.age_seconds), seconds(status.interrupted_seconds), fault]
        })
        .collect();
    let mut text = lines.join("\n") + "\n";
    if !kinds.is_empty() {
        text = format!("{text}\n{}\n", render(["KIND", "AGE", "INTERRUPTED", "FAULT"], &kinds));
    }
    text
}

fn host_sockets_text(status: &Status) -> String {
    match &status.host_sockets {
        Some(HostSocketStatus { cgroup: cgroup::ROOT, programs }) => {
            format!("sockets {programs} programs on the root cgroup")
        }
        Some(HostSocketStatus { cgroup, programs }) => {
            format!("sockets {programs} programs on cgroup {cgroup}")
        }
        None => "sockets no programs: processes of the host reach no Service".to_owned(),
    }
}

/// The status as text.
pub fn text(status: &Status) -> String {
    let agent = match &status.agent {
        Some(agent) => agent_text(agent),
        None if status.agent_running => "agent   running, but it does not answer\n".to_owned(),
        None => "agent   not running (the data path keeps working without it)\n".to_owned(),
    };
    let links: Vec<[String; 4]> = status
        .links
        .iter()
        .map(|link| {
            let hook = match link.hook {
                Some(Hook::Tcx) => "tcx",
                Some(Hook::Clsact) => "clsact",
                None => "-",
            };
            [link.name.clone(), link.role.to_string(), link.reason.to_owned(), hook.to_owned()]
        })
        .collect();
    let tables: Vec<[String; 3]> = status
        .tables
        .iter()
        .map(|fill| [fill.name.to_owned(), fill.used.to_string(), fill.capacity.to_string()])
        .collect();
    let counters: Vec<[String; 2]> =
        status.counters.iter().map(|count| [count.name.to_owned(), count.value.to_string()]).collect();
    format!(
        "{agent}{}\nschema  v{}\n\n{}\n{}\n{}",
        host_sockets_text(status),
        status.schema,
        render(["LINK", "ROLE", "REASON", "HOOK"], &links),
        render(["TABLE", "USED", "CAPACITY"], &tables),
        render(["COUNTER", "VALUE"], &counters),
    )
}
