//! The sources of objects: an API server, or a folder of manifests. Both send the same events.

pub mod api;
pub mod manifests;
pub mod progress;
