//! Links of pods, and other programs on them.

use std::collections::BTreeMap;

use super::line::{Line, ok, unseen, warning};
use super::options::Options;
use crate::dataplane::hook::place::is_ours;
use crate::dataplane::probe;
use crate::node::netdev::{Direction, Facts, Netdev};
use crate::node::role::{Role, role};

pub async fn check(netdev: &Netdev, options: &Options) -> Vec<Line> {
    let links = match netdev.links().await {
        Ok(links) => links,
        Err(error) => return vec![unseen("links", &format_args!("{error:#}"))],
    };
    let of_role = |wanted| links.iter().filter(|link| role(link, &options.roles).0 == wanted).count();
    let found = format!(
        "of pods {}, uplinks {}, tunnels {}",
        of_role(Role::Pod),
        of_role(Role::Uplink),
        of_role(Role::Tunnel)
    );
    let mut lines = vec![match of_role(Role::Uplink) {
        0 => warning("links", found, "no default route: is this the network namespace of the node?"),
        _ => ok("links", found),
    }];
    let pods: Vec<&Facts> = links.iter().filter(|link| role(link, &options.roles).0 == Role::Pod).collect();
    lines.push(tcx(options, links.first()));
    match others(netdev, options, &pods).await {
        Ok(others) if others.is_empty() => lines.push(ok("others", "none on links of pods")),
        Ok(others) => lines.extend(
            others.iter().map(|((hook, name, direction), count)| other(hook, name, *direction, *count)),
        ),
        Err(error) => lines.push(unseen("others", &format_args!("{error:#}"))),
    }
    lines
}

fn tcx(options: &Options, link: Option<&Facts>) -> Line {
    let Some(link) = link else { return warning("tcx", "no link to try it on", "run lb check on the node") };
    match probe::others_on_tcx(&options.pins, &link.name, link.index, Direction::Ingress) {
        Ok(Some(_)) => ok("tcx", "the kernel has TCX"),
        Ok(None) => ok("tcx", "the kernel has no TCX: programs will be attached to clsact"),
        Err(error) => unseen("tcx", &format_args!("{error:#}")),
    }
}

fn other(hook: &str, name: &str, direction: Direction, count: usize) -> Line {
    let found = format!("{hook} program {name} at {} of {count} links of pods", direction.name());
    match (hook, direction) {
        ("clsact", Direction::Egress) => warning(
            "others",
            found,
            "lb is attached to clsact there too, behind this program; if it ends the chain with TC_ACT_OK instead of \
             TC_ACT_UNSPEC, replies of Services are not translated back",
        ),
        ("clsact", Direction::Ingress) => warning(
            "others",
            found,
            "lb is attached to clsact there too, in front of this program, which sees translated packets",
        ),
        _ => warning(
            "others",
            found,
            "lb runs first at ingress and last at egress; if this program ends the chain at egress, replies of \
             Services are not translated back",
        ),
    }
}

type Others = BTreeMap<(&'static str, String, Direction), usize>;

/// The number of links, by hook, name and direction of the program.
async fn others(netdev: &Netdev, options: &Options, pods: &[&Facts]) -> anyhow::Result<Others> {
    let mut others = Others::new();
    for link in pods {
        for direction in Direction::BOTH {
            for filter in netdev.filters(link.index, direction).await? {
                if !is_ours(&filter) {
                    let name = filter.name.unwrap_or_else(|| "without a name".to_owned());
                    *others.entry(("clsact", name, direction)).or_default() += 1;
                }
            }
            let on_tcx = probe::others_on_tcx(&options.pins, &link.name, link.index, direction)?;
            for name in on_tcx.unwrap_or_default() {
                *others.entry(("TCX", name, direction)).or_default() += 1;
            }
        }
    }
    Ok(others)
}
