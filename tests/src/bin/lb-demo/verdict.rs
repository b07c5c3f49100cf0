//! Compares what a client met with what the frontend says.

use crate::services::Frontend;
use lb_tests::load::{Kind, Report};

/// The numbers of requests that were refused at once and that failed otherwise.
pub fn failures(report: &Report) -> (usize, usize) {
    let refused = report.failures.iter().filter(|failure| failure.kind == Kind::Refused).count();
    (refused, report.failures.len() - refused)
}

/// What is wrong; `None` if everything is as it should be.
pub fn wrong(frontend: &Frontend, report: &Report) -> Option<String> {
    let Frontend { address, servers, .. } = frontend;
    let (refused, failed) = failures(report);
    let unexpected = if servers.is_empty() { failed } else { failed + refused };
    if unexpected > 0 {
        let is_refusal = |kind: &Kind| *kind == Kind::Refused && servers.is_empty();
        let first = report.failures.iter().find(|failure| !is_refusal(&failure.kind));
        return Some(format!(
            "{} (the first of {unexpected})",
            first.map(ToString::to_string).unwrap_or_default()
        ));
    }
    if report.answers.keys().any(|server| !servers.contains(server)) {
        return Some(format!("{address} was answered by {:?}, not only by {servers:?}", report.answers));
    }
    if frontend.is_sticky && report.answers.len() > 1 {
        return Some(format!(
            "{address} has session affinity, but one client was answered by {:?}",
            report.answers
        ));
    }
    None
}
