//! The two pipelines of a pod's link.
//!
//! Order of lookups: bitmap, flow, frontend. A flow goes on when its frontend is gone.

use lb_common::{Action, Counter, Flow, Phase};

use crate::flow::{self, Hop, Standing};
use crate::icmp;
use crate::maps::{self, Part};
use crate::packet::{PROTO_ICMP, PROTO_ICMPV6, Packet, Parsed, TCP_FIN, TCP_RST, TCP_SYN};
use crate::reset;
use crate::rewrite;
use crate::verdict::{Drop, Verdict};

/// How a pod's link hangs on the host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The host routes to the pod.
    Routed,
    /// The pod shares a bridge with others: a reply may come past the host's stack.
    BridgePort,
}

/// From the pod: to a service, or straight to a backend.
#[inline(always)]
pub fn ingress(packet: &mut Packet, link: Link) -> Result<Verdict, Drop> {
    match packet.parse() {
        Parsed::Transport => {}
        Parsed::Fragment => {
            if maps::interesting(packet.key.dst, packet.key.dport, packet.key.proto) {
                maps::count(Counter::PassFragment);
            }
            return Ok(Verdict::Continue);
        }
        Parsed::TooDeep => {
            maps::count(Counter::PassTooDeep);
            return Ok(Verdict::Continue);
        }
        Parsed::Icmp | Parsed::Other => return Ok(Verdict::Continue),
    }
    if !maps::interesting(packet.key.dst, packet.key.dport, packet.key.proto) {
        return Ok(Verdict::Continue);
    }
    forward(packet, link)
}

#[inline(always)]
fn forward(packet: &mut Packet, link: Link) -> Result<Verdict, Drop> {
    let now = flow::now();
    let mut found = maps::flow(&packet.key);
    if found.is_none() && packet.is_tcp() && !packet.is_syn() {
        // Between the insert and the delete of a move, each part was read at the wrong moment: look again.
        found = maps::flow_in(Part::Assured, &packet.key).map(|flow| (flow, Part::Assured));
    }
    let mut hop = Hop::NOWHERE;
    let mut known = false;
    if let Some((entry, _)) = found {
        match flow::standing(packet, entry) {
            Standing::Good => {
                hop.set(entry);
                flow::touch_forward(packet, entry, now);
                known = true;
            }
            // A reply on its way from a backend: the client's link restores it.
            Standing::OtherWay => return Ok(Verdict::Continue),
            Standing::Over => {
                hop.previous = entry.backend;
                flow::forget(&packet.key);
            }
            Standing::Moved => {
                hop.previous = entry.backend;
                flow::forget(&packet.key);
                maps::count(Counter::Resteered);
            }
            Standing::BackendGone => {
                flow::forget(&packet.key);
                return reset::to_client(packet, Counter::ResetBackendGone);
            }
        }
    }
    if !known {
        match flow::open(packet, &mut hop, now) {
            flow::Opened::Flow => {}
            flow::Opened::NotOurs => return Ok(Verdict::Continue),
            flow::Opened::Reset => return reset::to_client(packet, hop.reason),
            flow::Opened::Drop => return Err(Drop(hop.reason)),
        }
    }
    send(packet, &hop, link)
}

/// Rewrites the packet for its next hop and lets it go.
#[inline(always)]
fn send(packet: &mut Packet, hop: &Hop, link: Link) -> Result<Verdict, Drop> {
    if hop.service != Flow::NONE {
        let bytes = u64::from(packet.len());
        maps::account(hop.service, hop.backend, |traffic| {
            traffic.packets += 1;
            traffic.bytes += bytes;
        });
    }
    if !rewrite::tuple(packet, &hop.src, &hop.dst) {
        return Err(Drop(Counter::DropRewriteFailed));
    }
    if hop.action == Action::Hairpin as u8 {
        maps::count(Counter::Hairpin);
        return match packet.send_back() {
            Some(code) => Ok(Verdict::Redirect(code)),
            None => Err(Drop(Counter::DropRewriteFailed)),
        };
    }
    if link == Link::BridgePort && hop.mac != [0; 6] && !packet.send_to_mac(hop.mac) {
        return Err(Drop(Counter::DropRewriteFailed));
    }
    Ok(Verdict::Continue)
}

/// To the pod: a reply gets the address back that the client knows.
#[inline(always)]
pub fn egress(packet: &mut Packet, link: Link) -> Result<Verdict, Drop> {
    match packet.parse() {
        Parsed::Transport => {}
        Parsed::Icmp if packet.key.proto == PROTO_ICMP || packet.key.proto == PROTO_ICMPV6 => {
            return if icmp::is_redirect_of_ours(packet) {
                Err(Drop(Counter::DropIcmpRedirect))
            } else {
                Ok(Verdict::Continue)
            };
        }
        _ => return Ok(Verdict::Continue),
    }
    if !maps::interesting(packet.key.src, packet.key.sport, packet.key.proto) {
        return Ok(Verdict::Continue);
    }
    let Some((entry, _)) = maps::flow(&packet.key) else { return Ok(Verdict::Continue) };
    // A hairpin reply was restored where it entered; a forward entry is another connection's request.
    if entry.flags & Flow::REVERSE == 0 || entry.action != Action::Stack as u8 {
        return Ok(Verdict::Continue);
    }
    let mut hop = Hop::NOWHERE;
    hop.set(entry);
    let now = flow::now();
    if entry.last_seen != now
        || entry.phase == Phase::New as u8
        || packet.tcp_flags & (TCP_FIN | TCP_RST | TCP_SYN) != 0
    {
        flow::track_reverse(packet, link == Link::BridgePort, now);
    }
    if hop.service != Flow::NONE {
        let bytes = u64::from(packet.len());
        maps::account(hop.service, hop.backend, |traffic| {
            traffic.reply_packets += 1;
            traffic.reply_bytes += bytes;
        });
    }
    if rewrite::tuple(packet, &hop.src, &hop.dst) {
        Ok(Verdict::Continue)
    } else {
        Err(Drop(Counter::DropRewriteFailed))
    }
}
