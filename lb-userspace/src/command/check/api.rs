//! Whether the API server answers, and grants what the agent needs.

use std::time::Duration;

use super::line::{Line, error, ok, warning};
use crate::dataplane;
use crate::dataplane::maps::Maps;
use crate::dataplane::pins::Pins;
use crate::source::api;

/// The time limit for all questions together.
const PATIENCE: Duration = Duration::from_secs(15);

pub async fn check(pins: &Pins, access: api::Access) -> Vec<Line> {
    if access.kubeconfig.is_none() && access.server.is_none() && !api::is_in_pod() {
        return vec![warning(
            "api",
            "not asked: no --kubeconfig, no --api-server, and no service account of a pod",
            "pass the options of the agent, or run lb check in its pod; with --manifests the agent needs no API server",
        )];
    }
    let tables = Maps::open(pins, false).and_then(|maps| dataplane::read(&maps)).unwrap_or_default();
    let asked =
        tokio::time::timeout(PATIENCE, async { api::denied(api::client(access, &tables).await?).await });
    let denied = match asked.await {
        Ok(Ok(denied)) => denied,
        Ok(Err(failed)) => return vec![unreachable(&format!("{failed:#}"))],
        Err(_) => return vec![unreachable(&format!("no answer within {} s", PATIENCE.as_secs()))],
    };
    if denied.is_empty() {
        return vec![ok("api", "the API server answers, and grants all that the agent needs")];
    }
    let lacks = denied.iter().map(|(needed, verbs)| {
        let dot = if needed.group.is_empty() { "" } else { "." };
        error(
            "api",
            format!("not allowed to {} {}{dot}{}", verbs.join(", "), needed.resource, needed.group),
            "apply the ClusterRole of deploy/base/rbac.yaml, and bind it to the user of the agent",
        )
    });
    lacks.collect()
}

fn unreachable(why: &str) -> Line {
    error("api", format!("the API server cannot be asked: {why}"), "check the address and the credentials")
}
