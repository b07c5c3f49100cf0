//! Detects a server that returned to an older state.
//!
//! After a restore from a backup, etcd continues to count from an older version. A watch after a version that lies in
//! the future is not refused; it is silent until that version is reached. Therefore the server is asked for its version
//! before a watch is resumed (a consistent read; versions of a kind compare as numbers, KEP-5504).

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::Full;
use kube::client::Body;
use serde::Deserialize;

/// A watch that resumes after `version`, and the request that asks for the server's version.
pub(super) struct Resumption {
    pub(super) version: u64,
    pub(super) question: Request<Body>,
}

impl Resumption {
    /// `None` for any other request: a list, or a watch that begins with a list.
    pub(super) fn of(request: &Request<Body>) -> Option<Self> {
        let query = request.uri().query()?;
        let parameter = |name: &str| {
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, v)| v)
        };
        if parameter("watch") != Some("true") || parameter("sendInitialEvents") == Some("true") {
            return None;
        }
        let version = parameter("resourceVersion")?.parse().ok()?;
        let question: Uri = format!("{}?limit=1", request.uri().path()).parse().ok()?;
        Some(Self { version, question: Request::get(question).body(Body::empty()).ok()? })
    }
}

/// The version of a list; `None` if the text is not a list, or its version is not a number.
pub(super) fn version(list: &[u8]) -> Option<u64> {
    let list: List = serde_json::from_slice(list).ok()?;
    list.metadata.resource_version.parse().ok()
}

#[derive(Deserialize)]
struct List {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
}

/// The answer of a server to a watch that is too old, which makes the watcher list again.
pub(super) fn gone(reason: &str) -> Response<Full<Bytes>> {
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Expired", "code": 410,
        "message": reason,
    });
    let mut response = Response::new(Full::from(status.to_string()));
    *response.status_mut() = StatusCode::GONE;
    response
}
