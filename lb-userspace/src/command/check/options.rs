//! What the checks are given.

use crate::config::Flags;
use crate::dataplane::pins::Pins;
use crate::dataplane::shape::Sizes;
use crate::node::role::Overrides;
use crate::source::api::Access;

/// The options that the agent will get.
pub struct Options {
    pub pins: Pins,
    pub roles: Overrides,
    pub api: Access,
    /// These include `--config`.
    pub flags: Flags,
    pub sizes: Sizes,
}
