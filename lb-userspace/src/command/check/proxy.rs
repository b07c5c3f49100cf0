//! Whether kube-proxy runs, and what it left behind.

use super::line::{Line, error, ok, unseen, warning};
use crate::command::cleanup::kube_proxy::{self, Leftovers, running};
use crate::node::netdev::Netdev;

pub async fn check(netdev: &Netdev) -> Vec<Line> {
    let running = running::running();
    let runs = match running.first() {
        None => ok("kube-proxy", "does not run, as far as can be seen"),
        Some(_) => warning(
            "kube-proxy",
            format!("it runs: {}", running.join(", ")),
            "lb serves its links next to kube-proxy; remove kube-proxy when lb serves everything (docs/migrate.md)",
        ),
    };
    let rules = match kube_proxy::find(netdev).await {
        Ok(found) => rules(&found, !running.is_empty()),
        Err(error) => unseen("leftovers", &format_args!("{error:#}")),
    };
    vec![runs, rules]
}

fn rules(found: &Leftovers, is_running: bool) -> Line {
    if found.is_empty() {
        return ok("leftovers", "no rule, device or set of kube-proxy");
    }
    let there = found.summary().join("; ");
    if is_running {
        return ok("leftovers", format!("rules of the running kube-proxy: {there}"));
    }
    error(
        "leftovers",
        format!("kube-proxy left {there}"),
        "lb cleanup --kube-proxy --dry-run shows what would be removed, lb cleanup --kube-proxy removes it",
    )
}
