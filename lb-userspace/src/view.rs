//! What the commands show: from the tables alone, the same with an agent alive or not; and from files, with no
//! kernel, where there is more to say. Shapes are documented in docs/output.md.

mod backends;
pub(crate) mod columns;
mod files;
mod rules;
mod services;

pub use backends::{BackendView, backend_table, backends};
pub use files::{Node, model_from_manifests, tables_from_manifests};
pub use rules::{HealthCheckView, RulesView, services_of_model};
pub use services::{AffinityView, ClientsView, FrontendView, ServiceView, service_table, services};
