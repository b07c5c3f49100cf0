//! The configuration of the agent.

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

/// The configuration of the agent, from the command line.
#[derive(Clone, Debug)]
pub struct Config {
    pub source: Source,
    /// The name of the agent's own Node.
    pub node_name: String,
    pub rules: Rules,
    pub pin_dir: PathBuf,
    pub attach: Mode,
    /// `--link-role`.
    pub roles: Overrides,
    pub constants: Constants,
    pub surfaces: ServerOptions,
    /// How long a change may wait to be written before the agent reports itself unhealthy.
    pub health_timeout: Duration,
    /// Maximum number of service ports (and of backends) with traffic metrics of their own.
    pub metrics_limit: usize,
    pub sizes: Sizes,
    pub host_sockets: SocketOptions,
}
