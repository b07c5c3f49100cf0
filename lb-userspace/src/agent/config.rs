//! What the command line means to the agent.

use std::path::PathBuf;
use std::time::Duration;

use super::source::Source;
use crate::dataplane::hook::Mode;
use crate::dataplane::load::Constants;
use crate::dataplane::shape::Sizes;
use crate::hooks::sockets::SocketOptions;
use crate::model::Rules;
use crate::node::role::Overrides;
use crate::observe::http::ServerOptions;

/// What the command line means.
#[derive(Clone, Debug)]
pub struct Config {
    pub source: Source,
    pub node_name: String,
    pub rules: Rules,
    pub pin_dir: PathBuf,
    pub attach: Mode,
    pub roles: Overrides,
    pub constants: Constants,
    pub surfaces: ServerOptions,
    /// How long a change may wait for the tables before health says so.
    pub health_timeout: Duration,
    /// Service ports, and backends, that metrics show the traffic of.
    pub metrics_limit: usize,
    pub sizes: Sizes,
    pub host_sockets: SocketOptions,
}
