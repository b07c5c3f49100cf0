//! Judging a flow: whether the packet that found it may follow it.

use lb_common::{Flow, Phase};

use super::clock::now;
use crate::frame::Headers;
use crate::maps;
use crate::service::find_frontend;

/// What a packet from a pod finds in its flow.
pub enum Standing {
    /// The packet follows the flow.
    Good,
    /// The entry is about the other direction.
    OtherWay,
    /// The connection has ended, and this packet starts another.
    Over,
    /// UDP or SCTP, and the backend is gone: another backend takes the flow.
    Moved,
    /// TCP, and the backend is gone.
    BackendGone,
}

#[inline(always)]
pub fn standing(headers: &Headers, flow: &Flow) -> Standing {
    if flow.is_reverse() && !flow.is_hairpin() {
        return Standing::OtherWay;
    }
    // The direct flow was never answered, and meanwhile its destination has become a Service's.
    if !flow.has_service()
        && flow.is_in(Phase::New)
        && (!headers.is_tcp() || headers.is_syn())
        && find_frontend(&headers.key).is_some()
    {
        return Standing::Over;
    }
    let alive = flow.backend == Flow::NONE || maps::backend_alive(flow.backend, flow.generation);
    if headers.is_tcp() {
        if headers.is_syn() && (!alive || flow.is_in(Phase::Closed) && !may_go_on(flow)) {
            Standing::Over
        } else if alive {
            Standing::Good
        } else {
            Standing::BackendGone
        }
    } else if alive {
        Standing::Good
    } else {
        Standing::Moved
    }
}

/// Ticks after a RST for which a SYN does not start another connection: the RST may have been forged, and so may the SYN.
const UNCERTAIN: u32 = 2;

/// Whether the connection may not have ended after all. A SYN then goes to its backend, which knows.
#[inline(always)]
fn may_go_on(flow: &Flow) -> bool {
    flow.was_reset() && now().wrapping_sub(flow.last_seen) <= UNCERTAIN
}
