//! Answers a packet that nobody will serve, so that its sender learns at once instead of by a timeout.

mod reset;
mod unreachable;

use lb_common::{Counter, Proto};

use crate::frame::{Drop, Link, Packet, TCP_RST, Verdict};
use crate::maps;

pub use reset::tell_backend;

/// Turns the packet into its own RST (TCP) or "port unreachable" (UDP) and sends it back. There is no limit of rate: one
/// smaller packet for each, to the pod that sent it. SCTP is dropped: its stacks go on trying in spite of a "port
/// unreachable" (RFC 9260 10, ICMP3), and a checksum that the kernel is to fill in would be written into it.
#[inline(always)]
pub fn reject(packet: &mut Packet, link: Link, reason: Counter) -> Result<Verdict, Drop> {
    let turned = if packet.is_tcp() {
        // A RST is never answered.
        packet.tcp_flags & TCP_RST == 0 && reset::turn(packet)
    } else {
        packet.key.proto == Proto::Udp as u8 && unreachable::turn(packet)
    };
    if !turned {
        return Err(Drop(if packet.is_tcp() { reason } else { Counter::DropNoEndpoint }));
    }
    match packet.send_back(link) {
        Some(code) => {
            maps::count(reason);
            Ok(Verdict::Redirect(code))
        }
        None => Err(Drop(reason)),
    }
}
