//! The two pipelines of a pod's link.
//!
//! Order of lookups: bitmap, flow, frontend. A flow outlives its frontend.

use core::mem::MaybeUninit;

use aya_ebpf::programs::TcContext;
use lb_common::{Action, Counter, Flow};

use crate::answer;
use crate::flow::icmp::{self, Fate};
use crate::flow::{self, Opened, Standing};
use crate::frame::parse::{self, Parsed};
use crate::frame::{Drop, Link, Packet, Verdict, rewrite};
use crate::maps;

/// A packet from the pod: to a Service, or straight to a backend.
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
        Parsed::Icmp if icmp::icmp_of_client(packet.skb, packet.headers) => return Ok(Verdict::Continue),
        Parsed::Icmp => return Err(Drop(Counter::DropRewriteFailed)),
        Parsed::Other => return Ok(Verdict::Continue),
    }
    if !maps::interesting(packet.key.dst, packet.key.dport, packet.key.proto)
        && !maps::near_service(packet.key.dst, packet.key.dport)
    {
        if packet.has_end_flag() && maps::interesting(packet.key.src, packet.key.sport, packet.key.proto) {
            flow::look_at_end_of_reply(packet, link);
        }
        return Ok(Verdict::Continue);
    }
    forward(packet, link)
}

#[inline(always)]
fn forward(packet: &mut Packet, link: Link) -> Result<Verdict, Drop> {
    let mut previous = Flow::NONE;
    if let Some(flow) = maps::flow(&packet.key) {
        let standing = flow::standing(packet, flow);
        let changes_nothing = match standing {
            Standing::Good => !packet.has_control_flag(),
            Standing::OtherWay => true,
            _ => false,
        };
        if !changes_nothing && !flow::is_proven(packet, link, Some(flow)) {
            return Ok(Verdict::Continue);
        }
        match standing {
            Standing::Good => {
                let rewritten = rewrite::as_flow_says(packet, flow);
                let hairpin = translated(packet, flow, rewritten)?;
                // A new flow has learned no MAC address yet.
                if link.is_port() && !hairpin && flow.mac != [0; 6] && !packet.send_to_mac(flow.mac) {
                    return Err(Drop(Counter::DropRewriteFailed));
                }
                // Last, because the flow may leave now.
                flow::touch_forward(packet, flow, packet.ifindex());
                return leave(packet, hairpin, link);
            }
            // A reply from a backend, which the client's link will restore.
            Standing::OtherWay => {
                if packet.has_end_flag() {
                    flow::look_at_end_of_reply(packet, link);
                }
                return Ok(Verdict::Continue);
            }
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
    // A segment in the middle of a connection opens no flow.
    let may_open = !packet.is_tcp() || packet.is_syn();
    if may_open && previous == Flow::NONE && !flow::is_proven(packet, link, None) {
        return Ok(Verdict::Continue);
    }
    begin(packet, previous, link)
}

/// A packet without a flow.
#[inline(always)]
fn begin(packet: &mut Packet, previous: u32, link: Link) -> Result<Verdict, Drop> {
    let is_tcp = packet.is_tcp();
    if packet.key.is_udp()
        && maps::may_be_node_port(packet.key.dport)
        && maps::is_local(&packet.key.dst)
        && packet.has_connected_socket()
    {
        // An answer to a socket of the node whose port is a NodePort's number.
        return Ok(Verdict::Continue);
    }
    let reason = match flow::open_flow(&packet.key, packet.tcp_flags, previous, packet.ifindex()) {
        Opened::Flow => {
            let Some(scratch) = maps::scratch() else { return Err(Drop(Counter::DropFlowInsert)) };
            let flow = &scratch.forward;
            let rewritten = rewrite::rewrite(packet.skb, packet.headers, flow);
            let hairpin = translated(packet, flow, rewritten)?;
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

/// Fails if the rewrite did; otherwise counts the packet, and returns whether it is a hairpin.
#[inline(always)]
fn translated(packet: &mut Packet, flow: &Flow, rewritten: bool) -> Result<bool, Drop> {
    if !rewritten {
        return Err(Drop(Counter::DropRewriteFailed));
    }
    if flow.has_service() {
        let bytes = u64::from(packet.len());
        maps::account(flow.service, flow.backend, |traffic| {
            traffic.packets += 1;
            traffic.bytes += bytes;
        });
    }
    Ok(flow.is_hairpin())
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

/// A packet to the pod: a reply gets back the address that the client knows.
#[inline(always)]
pub fn egress(ctx: &TcContext, link: Link) -> Result<Verdict, Drop> {
    let mut headers = MaybeUninit::uninit();
    let (parsed, mut packet) = parse::headers(ctx.skb.skb, &mut headers);
    let packet = &mut packet;
    match parsed {
        Parsed::Transport => {}
        Parsed::Icmp => {
            return match icmp::inspect_icmp(packet.skb, packet.headers) {
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
    let Some(flow) = maps::flow(&packet.key) else { return Ok(Verdict::Continue) };
    // A hairpin reply was restored at the link by which it entered; a forward entry is another connection's request.
    if !flow.is_reverse() || flow.action != Action::Stack.number() {
        return Ok(Verdict::Continue);
    }
    if flow.has_service() {
        let bytes = u64::from(packet.len());
        maps::account(flow.service, flow.backend, |traffic| {
            traffic.reply_packets += 1;
            traffic.reply_bytes += bytes;
        });
    }
    if !rewrite::as_flow_says(packet, flow) {
        return Err(Drop(Counter::DropRewriteFailed));
    }
    if packet.has_end_flag() && flow::is_doubted(packet, flow) {
        return Ok(Verdict::Continue);
    }
    if flow::has_changed(packet, flow) {
        let mac = if link.is_port() { flow::mac_to_learn(packet, flow) } else { 0 };
        flow::track_reply(packet, flow, mac);
    }
    Ok(Verdict::Continue)
}
