//! Describes faults of the API server, and says what to do about them.

use std::error::Error;

use kube::Resource;
use kube::core::Status;
use kube::runtime::watcher;

use super::watched::Watched;

/// The project's manifest whose ClusterRole grants everything that the agent needs.
const GRANTS: &str = "deploy/base/rbac.yaml";

/// The server's own answer, if there is one.
pub(super) fn status(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::WatchError(status) => Some(status),
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status),
        _ => None,
    }
}

pub(super) fn text<K: Watched>(error: &watcher::Error) -> String {
    let verb = if matches!(error, watcher::Error::InitialListFailed(_)) { "list" } else { "watch" };
    match status(error) {
        Some(status) if status.code == 403 => format!(
            "403, not allowed to {verb} {}: apply the ClusterRole of {GRANTS} and bind it to the agent's \
             user ({})",
            resource::<K>(),
            status.message
        ),
        Some(status) if status.code == 401 => format!(
            "401, the API server does not accept our credentials: the token or certificate has expired or \
             belongs to another cluster; both are read again at each attempt ({})",
            status.message
        ),
        // kube returns an empty status for an answer that it cannot decode.
        Some(status) if status.code == 0 && status.message.is_empty() => {
            format!("cannot {verb} {}: the answer is not that of a Kubernetes API", resource::<K>())
        }
        Some(status) => {
            let reason = if status.message.is_empty() { &status.reason } else { &status.message };
            format!("cannot {verb} {}: {} {reason}", resource::<K>(), status.code)
        }
        None => format!("cannot {verb} {}: {}", resource::<K>(), chain(error)),
    }
}

/// The resource in the notation of `kubectl auth can-i`: `endpointslices.discovery.k8s.io`.
fn resource<K: Watched>() -> String {
    let (plural, group) = (K::Wire::plural(&()), K::Wire::group(&()));
    if group.is_empty() { plural.into_owned() } else { format!("{plural}.{group}") }
}

/// All causes of an error. A cause that only repeats the next one is omitted.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        // kube's errors repeat the text of their source.
        while texts.last().is_some_and(|last| last.ends_with(&text)) {
            texts.pop();
        }
        texts.push(text);
        next = cause.source();
    }
    texts.join(": ")
}
