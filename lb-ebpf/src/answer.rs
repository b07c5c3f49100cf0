//! Answers a packet that no backend will serve, so that the sender learns at once instead of by a timeout.

mod reset;
mod unreachable;

use lb_common::Counter;

use crate::frame::layout::tcp;
use crate::frame::{Drop, Link, Packet, Verdict};
use crate::maps;

pub use reset::tell_backend;

/// Turns the packet into its own RST (TCP) or "port unreachable" (UDP) and sends it back. The rate is not limited: each
/// packet is answered by one (a RST that is not larger, or a message of 56 bytes over IPv4 and 96 over IPv6), to the
/// pod that sent it. SCTP is dropped: its stacks keep trying in spite of a "port unreachable" (RFC 9260 10, ICMP3), and
/// a checksum that the kernel is still to fill in would be written into the answer.
#[inline(always)]
pub fn reject(packet: &mut Packet, link: Link, reason: Counter) -> Result<Verdict, Drop> {
    let turned = if packet.is_tcp() {
        // A RST is never answered.
        packet.tcp_flags & tcp::RST == 0 && reset::turn_into_reset(packet.skb, packet.headers)
    } else {
        packet.key.is_udp() && unreachable::turn_into_error(packet.skb, packet.headers)
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
