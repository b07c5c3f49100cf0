//! The two pipelines of a pod's link.
//!
//! Order of lookups: bitmap, flow, frontend. A flow goes on when its frontend is gone.

use core::mem::MaybeUninit;

use aya_ebpf::programs::TcContext;
use lb_common::{Action, Counter, Flow, Phase, Proto};

use crate::answer;
use crate::flow::icmp::{self, Fate};
use crate::flow::{self, Opened, Standing};
use crate::frame::parse::{self, Parsed};
use crate::frame::{Drop, Link, Packet, TCP_FIN, TCP_RST, TCP_SYN, Verdict, rewrite};
use crate::maps::{self, Part};

/// From the pod: to a service, or straight to a backend.
#[inline(always)]
pub fn ingress(ctx: &TcContext, link: Link) -> Result<Verdict, Drop> {
    let mut headers = MaybeUninit::uninit();
    let (parsed, mut packet) = parse::headers(ctx.skb.skb, &mut headers);
    let packet = &mut packet;
    match parsed {
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
        Parsed::Icmp if icmp::of_client(packet) => return Ok(Verdict::Continue),
        Parsed::Icmp => return Err(Drop(Counter::DropRewriteFailed)),
        Parsed::Other => return Ok(Verdict::Continue),
    }
    if !maps::interesting(packet.key.dst, packet.key.dport, packet.key.proto)
        && !maps::near_service(packet.key.dst, packet.key.dport)
    {
        return Ok(Verdict::Continue);
    }
    forward(packet, link)
}

#[inline(always)]
fn forward(packet: &mut Packet, link: Link) -> Result<Verdict, Drop> {
    let mut found = maps::flow(&packet.key);
    if found.is_none() && !packet.is_syn() {
        // Between the insert and the delete of a move, each part was read at the wrong moment: look again.
        found = maps::flow_in(Part::Assured, &packet.key).map(|flow| (flow, Part::Assured));
    }
    let mut previous = Flow::NONE;
    if let Some((flow, _)) = found {
        match flow::standing(packet, flow) {
            Standing::Good => {
                let rewritten = rewrite::as_flow_says(packet, flow);
                let hairpin = translated(packet, flow, rewritten, link)?;
                // Last, for the flow may move now.
                flow::touch_forward(packet, flow);
                return leave(packet, hairpin, link);
            }
            // A reply on its way from a backend: the client's link restores it.
            Standing::OtherWay => return Ok(Verdict::Continue),
            Standing::Over => {
                previous = flow.backend;
                flow::forget(&packet.key);
            }
            Standing::Moved => {
                previous = flow.backend;
                flow::forget(&packet.key);
                maps::count(Counter::Resteered);
            }
            Standing::BackendGone => {
                answer::tell_backend(packet, flow);
                flow::forget(&packet.key);
                return answer::reject(packet, link, Counter::ResetBackendGone);
            }
        }
    }
    begin(packet, previous, link)
}

/// A packet without a flow.
#[inline(always)]
fn begin(packet: &mut Packet, previous: u32, link: Link) -> Result<Verdict, Drop> {
    let is_tcp = packet.is_tcp();
    if packet.key.proto == Proto::Udp as u8
        && maps::may_be_node_port(packet.key.dport)
        && maps::is_local(&packet.key.dst)
        && packet.has_connected_socket()
    {
        // An answer to a socket of the node that has a NodePort's number.
        return Ok(Verdict::Continue);
    }
    let reason = match flow::open(packet, previous) {
        Opened::Flow => {
            // Where it was evicted within the microsecond, the next try finds room again.
            let Some((flow, _)) = maps::flow(&packet.key) else { return Err(Drop(Counter::DropFlowInsert)) };
            let rewritten = rewrite::as_new_flow_says(packet, flow);
            let hairpin = translated(packet, flow, rewritten, link)?;
            return leave(packet, hairpin, link);
        }
        Opened::NotOurs => return Ok(Verdict::Continue),
        Opened::UnknownFlow => Counter::ResetUnknownFlow,
        Opened::NoEndpoint if is_tcp => Counter::ResetNoEndpoint,
        Opened::NoEndpoint => Counter::UnreachableNoEndpoint,
        Opened::UnknownPort if is_tcp => Counter::ResetUnknownPort,
        Opened::UnknownPort => Counter::UnreachableUnknownPort,
        Opened::NoLocalEndpoint => return Err(Drop(Counter::DropNoLocalEndpoint)),
        Opened::NotAdmitted => return Err(Drop(Counter::DropSourceRange)),
        Opened::Unallocated => return Err(Drop(Counter::DropUnallocated)),
        Opened::NoPort => return Err(Drop(Counter::ClashDropped)),
        Opened::Failed => return Err(Drop(Counter::DropFlowInsert)),
    };
    answer::reject(packet, link, reason)
}

/// Counts a packet, and whether its rewrite worked. Is it to go back out of its link?
#[inline(always)]
fn translated(packet: &mut Packet, flow: &Flow, rewritten: bool, link: Link) -> Result<bool, Drop> {
    if !rewritten {
        return Err(Drop(Counter::DropRewriteFailed));
    }
    if flow.service != Flow::NONE {
        let bytes = u64::from(packet.len());
        maps::account(flow.service, flow.backend, |traffic| {
            traffic.packets += 1;
            traffic.bytes += bytes;
        });
    }
    let hairpin = flow.action == Action::Hairpin as u8;
    if link.is_port() && !hairpin && flow.mac != [0; 6] && !packet.send_to_mac(flow.mac) {
        return Err(Drop(Counter::DropRewriteFailed));
    }
    Ok(hairpin)
}

#[inline(always)]
fn leave(packet: &mut Packet, hairpin: bool, link: Link) -> Result<Verdict, Drop> {
    if !hairpin {
        return Ok(Verdict::Continue);
    }
    maps::count(Counter::Hairpin);
    match packet.send_back(link) {
        Some(code) => Ok(Verdict::Redirect(code)),
        None => Err(Drop(Counter::DropRewriteFailed)),
    }
}

/// To the pod: a reply gets the address back that the client knows.
#[inline(always)]
pub fn egress(ctx: &TcContext, link: Link) -> Result<Verdict, Drop> {
    let mut headers = MaybeUninit::uninit();
    let (parsed, mut packet) = parse::headers(ctx.skb.skb, &mut headers);
    let packet = &mut packet;
    match parsed {
        Parsed::Transport => {}
        Parsed::Icmp => {
            return match icmp::inspect(packet) {
                Fate::Continue => Ok(Verdict::Continue),
                Fate::Redirect => Err(Drop(Counter::DropIcmpRedirect)),
                Fate::Failed => Err(Drop(Counter::DropRewriteFailed)),
            };
        }
        _ => return Ok(Verdict::Continue),
    }
    if !maps::interesting(packet.key.src, packet.key.sport, packet.key.proto) {
        return Ok(Verdict::Continue);
    }
    let flow = match maps::flow(&packet.key) {
        Some((flow, _)) => flow,
        // As in `forward`: a move on another CPU was met half-way.
        None => {
            let Some(flow) = maps::flow_in(Part::Assured, &packet.key) else { return Ok(Verdict::Continue) };
            flow
        }
    };
    // A hairpin reply was restored where it entered; a forward entry is another connection's request.
    if flow.flags & Flow::REVERSE == 0 || flow.action != Action::Stack as u8 {
        return Ok(Verdict::Continue);
    }
    if flow.service != Flow::NONE {
        let bytes = u64::from(packet.len());
        maps::account(flow.service, flow.backend, |traffic| {
            traffic.reply_packets += 1;
            traffic.reply_bytes += bytes;
        });
    }
    let track = flow.beat != flow::beat()
        || flow.phase == Phase::New as u8
        || packet.tcp_flags & (TCP_FIN | TCP_RST | TCP_SYN) != 0;
    if !rewrite::as_flow_says(packet, flow) {
        return Err(Drop(Counter::DropRewriteFailed));
    }
    if track {
        flow::track_reverse(packet, link.is_port());
    }
    Ok(Verdict::Continue)
}
