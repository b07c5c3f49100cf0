//! What the commands show, computed from the tables alone: the same from pinned maps, with no agent alive, and
//! from files, with no kernel. Shapes are documented in docs/output.md.

mod backends;
pub(crate) mod columns;
mod files;
mod services;

pub use backends::{BackendView, backend_table, backends};
pub use files::tables_from_manifests;
pub use services::{AffinityView, FrontendView, ServiceView, service_table, services};

use lb_common::{Addr, Port};

/// `address:port`, IPv6 in brackets.
pub(crate) fn authority(addr: Addr, port: Port) -> String {
    std::net::SocketAddr::new(addr.into(), port.host()).to_string()
}
