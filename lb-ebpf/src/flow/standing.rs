//! Judging a flow: whether the packet that found it may follow it.

use lb_common::{Action, Flow, Phase};

use crate::frame::Packet;
use crate::maps;
use crate::service::frontend;

/// What a packet from a pod finds in its flow.
pub enum Standing {
    Good,
    /// The entry is about the other direction.
    OtherWay,
    /// The connection had ended, and this packet starts another.
    Over,
    /// UDP or SCTP, and the backend is gone: another one takes the flow.
    Moved,
    /// TCP, and the backend is gone.
    BackendGone,
}

#[inline(always)]
pub fn standing(packet: &Packet, flow: &Flow) -> Standing {
    if flow.flags & Flow::REVERSE != 0 && flow.action != Action::Hairpin as u8 {
        return Standing::OtherWay;
    }
    // Nobody answered a direct flow, and by now its destination is a Service's.
    if flow.service == Flow::NONE
        && flow.phase == Phase::New as u8
        && (!packet.is_tcp() || packet.is_syn())
        && frontend::of(&packet.key).is_some()
    {
        return Standing::Over;
    }
    let alive = flow.backend == Flow::NONE || maps::backend_alive(flow.backend, flow.generation);
    if packet.is_tcp() {
        if packet.is_syn() && (flow.phase >= Phase::Closing as u8 || !alive) {
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
