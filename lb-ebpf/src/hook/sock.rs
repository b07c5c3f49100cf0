//! The host's own processes. Their packets pass no pod's link: the peer is translated when a process names it, and
//! restored when the process asks for it. No packet is touched.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
};
use lb_common::{
    Addr, Backend, Counter, FlowKey, FrontendKind, PeerSide, Port, Proto, RangeRule, ServiceRecord, Slot,
    Socket, SocketKey, wire_enum,
};

use crate::global::{ByPointer, answer, global};
use crate::service::{self, Lack, find_frontend};
use crate::{maps, settings};

const PROCEED: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;
const ETIMEDOUT: i32 = 110;

/// The family of the socket, which determines where the kernel keeps the address. An IPv6 socket may name an IPv4 peer
/// in its v4-mapped form, which is how all our tables write addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// What a process asks for when it names a peer, and the peer's translation.
#[repr(C)]
struct Request {
    /// The network namespace of the process.
    netns: u64,
    to: Socket,
    /// The socket names a peer with each datagram, and must stay with its backend.
    stays: bool,
}

impl ByPointer for Request {}

impl Request {
    /// Whether the process is one of the host's, not a pod's.
    #[inline(always)]
    fn is_host(&self) -> bool {
        self.netns == settings::host_netns()
    }

    /// The client whose affinity counts. The address that the process will use is not known yet, so that a network
    /// namespace is one client; the node is one. The address is in a block that no host has.
    #[inline(always)]
    fn client(&self) -> Addr {
        Addr::from_words([0, 0, self.netns as u32, (self.netns >> 32) as u32])
    }
}

wire_enum! {
    /// What becomes of a named peer.
    enum Resolved: u32 {
        /// The peer is no Service's, or not served here.
        Keep = 0,
        Translated = 1,
        Refused = 2,
        /// A policy says drop: the process gets the error of a peer that never answers, only sooner.
        Dropped = 3,
    }
}

answer!(Resolved, Keep);

/// `connect(2)`, TCP and UDP.
#[inline(always)]
pub fn connect(ctx: *mut bpf_sock_addr, family: Family) -> i32 {
    // SAFETY: context fields.
    let proto = unsafe { (*ctx).protocol } as u8;
    if proto != Proto::Tcp.number() && proto != Proto::Udp.number() {
        return PROCEED;
    }
    translate(ctx, family, proto, false)
}

/// `sendmsg(2)` of an unconnected UDP socket.
#[inline(always)]
pub fn sendmsg(ctx: *mut bpf_sock_addr, family: Family) -> i32 {
    translate(ctx, family, Proto::Udp.number(), true)
}

/// `recvmsg(2)` and `getpeername(2)`: the process sees the peer that it named.
#[inline(always)]
pub fn restore(ctx: *mut bpf_sock_addr, family: Family) -> i32 {
    let (addr, port) = named(ctx, family);
    // SAFETY: a context field.
    let proto = unsafe { (*ctx).protocol } as u8;
    if maps::interesting(addr, port, proto) && is_served(netns(ctx)) {
        let key = key(cookie(ctx), addr, port, PeerSide::Backend);
        if let Some(socket) = maps::socket(&key) {
            name(ctx, family, socket.addr, socket.port);
        }
    }
    PROCEED
}

#[inline(always)]
fn translate(ctx: *mut bpf_sock_addr, family: Family, proto: u8, stays: bool) -> i32 {
    let (addr, port) = named(ctx, family);
    // At sockets, NodePorts answer on all of 127.0.0.0/8, too, and on the unspecified address.
    if !maps::interesting(addr, port, proto)
        && !maps::near_service(addr, port)
        && !maps::may_be_node_port(port)
    {
        return PROCEED;
    }
    let netns = netns(ctx);
    if !is_served(netns) || is_bound_to_loopback(ctx, family) {
        return PROCEED;
    }
    let named = key(cookie(ctx), addr, port, PeerSide::Frontend);
    let mut request = Request { netns, to: Socket { proto, ..Socket::BLANK }, stays };
    match resolve(&named, &mut request) {
        Resolved::Translated => {
            name(ctx, family, request.to.addr, request.to.port);
            PROCEED
        }
        Resolved::Refused => fail(ECONNREFUSED),
        Resolved::Dropped => fail(ETIMEDOUT),
        Resolved::Keep => {
            if !stays {
                // To this socket, the peer may have been the backend's name for a Service until now.
                maps::socket_remove(&SocketKey { side: PeerSide::Backend as u8, ..named });
            }
            PROCEED
        }
    }
}

/// Gives the process this errno. If the kernel cannot, the packets stay untranslated, because EPERM would be wrong.
#[inline(always)]
fn fail(errno: i32) -> i32 {
    if !settings::can_set_retval() {
        return PROCEED;
    }
    // SAFETY: a plain helper call.
    unsafe { bpf_set_retval(-errno) };
    REFUSE
}

global!(
    /// Finds the backend for a peer, as the process named it, and writes the backend to `to`.
    fn resolve(named: &SocketKey, request: &mut Request) -> Resolved = find_backend, null: Resolved::Keep
);

#[inline(always)]
fn find_backend(named: &SocketKey, request: &mut Request) -> Resolved {
    if request.stays
        && let Some(known) = maps::socket(named)
        && maps::backend_alive(known.backend, known.generation)
        && let Some(backend) = maps::backend(known.backend)
    {
        translate_to(
            request,
            known.service,
            Slot { backend: known.backend, generation: known.generation },
            backend,
        );
        // One of the two entries may have been evicted.
        if maps::socket(&behind(named, request)).is_none() {
            remember(named, request);
        }
        return Resolved::Translated;
    }
    let Some(destination) = destination(named, request) else { return Resolved::Keep };
    let Some(frontend) = find_frontend(&destination) else {
        return match maps::range_rule(destination.dst) {
            Some(RangeRule::ClusterIp) => refuse(Counter::RefusedUnknownPort),
            Some(RangeRule::Unallocated) => dropped(Counter::DropUnallocated),
            _ => Resolved::Keep,
        };
    };
    let Some(record) = maps::service_record(frontend.service) else { return Resolved::Keep };
    if frontend.is(FrontendKind::LoadBalancer) && record.flags & ServiceRecord::SOURCE_RANGES != 0 {
        if !request.is_host() {
            // The process's packets will show its address.
            return Resolved::Keep;
        }
        if record.flags & ServiceRecord::HOST_ADMITTED == 0 {
            return dropped(Counter::DropSourceRange);
        }
    }
    let (slot, backend) = match service::choose(&frontend, record, request.client()) {
        Ok(chosen) => chosen,
        Err(Lack::NoEndpoint) => return refuse(Counter::RefusedNoEndpoint),
        Err(Lack::NoLocalEndpoint) => return dropped(Counter::DropNoLocalEndpoint),
    };
    translate_to(request, frontend.service, slot, backend);
    remember(named, request);
    maps::count(Counter::SocketTranslated);
    maps::account(frontend.service, slot.backend, |traffic| traffic.connections += 1);
    Resolved::Translated
}

#[inline(always)]
fn refuse(reason: Counter) -> Resolved {
    maps::count(reason);
    Resolved::Refused
}

#[inline(always)]
fn dropped(reason: Counter) -> Resolved {
    maps::count(reason);
    Resolved::Dropped
}

#[inline(always)]
fn translate_to(request: &mut Request, service: u32, slot: Slot, backend: &Backend) {
    request.to.addr = backend.addr;
    request.to.port = backend.port;
    request.to.service = service;
    request.to.backend = slot.backend;
    request.to.generation = slot.generation;
}

/// Stores both names of the peer.
#[inline(always)]
fn remember(named: &SocketKey, request: &Request) {
    let socket = Socket { addr: named.addr, port: named.port, ..request.to };
    maps::socket_insert(&behind(named, request), &socket);
    if request.stays {
        maps::socket_insert(named, &socket);
    }
}

/// The key under which the kernel's name of the peer stands: the backend.
#[inline(always)]
fn behind(named: &SocketKey, request: &Request) -> SocketKey {
    key(named.cookie, request.to.addr, request.to.port, PeerSide::Backend)
}

/// The destination by which the frontend is looked up. For a process of the host, every address of 127.0.0.0/8 and the
/// unspecified address mean the loopback (Linux); 127.0.0.1 and ::1 stand for them in `local_addrs`. `None` for a pod's
/// loopback, which is the pod's own.
#[inline(always)]
fn destination(named: &SocketKey, request: &Request) -> Option<FlowKey> {
    let mut dst = named.addr;
    if dst.is_loopback() || is_unspecified(dst) {
        if !request.is_host() {
            return None;
        }
        dst = if dst.is_v4() { Addr::from_v4_word(u32::to_be(0x7f00_0001)) } else { LOOPBACK_V6 };
    }
    Some(FlowKey { dst, dport: named.port, proto: request.to.proto, ..FlowKey::BLANK })
}

const LOOPBACK_V6: Addr = Addr::from_words([0, 0, 0, u32::to_be(1)]);

#[inline(always)]
fn is_unspecified(addr: Addr) -> bool {
    if addr.is_v4() { addr.v4_word() == 0 } else { addr.same(Addr::UNSPECIFIED) }
}

/// Whether processes of this network namespace are served: the host's, or every one under `--socket-lb=all`.
#[inline(always)]
fn is_served(netns: u64) -> bool {
    settings::every_netns() || netns == settings::host_netns()
}

#[inline(always)]
fn netns(ctx: *mut bpf_sock_addr) -> u64 {
    // SAFETY: a plain helper call on the context.
    unsafe { bpf_get_netns_cookie(ctx.cast()) }
}

#[inline(always)]
fn cookie(ctx: *mut bpf_sock_addr) -> u64 {
    // SAFETY: a plain helper call on the context.
    unsafe { bpf_get_socket_cookie(ctx.cast()) }
}

/// Such a socket cannot reach a pod: the kernel sends nothing from a loopback address over a link.
#[inline(always)]
fn is_bound_to_loopback(ctx: *mut bpf_sock_addr, family: Family) -> bool {
    // SAFETY: context fields, and fields of the socket that it points to, read word by word.
    let bound = unsafe {
        let sk = (*ctx).__bindgen_anon_1.sk;
        if sk.is_null() {
            return false;
        }
        match family {
            Family::V4 => Addr::from_v4_word(core::ptr::read_volatile(&raw const (*sk).src_ip4)),
            Family::V6 => Addr::from_words([
                core::ptr::read_volatile(&raw const (*sk).src_ip6[0]),
                core::ptr::read_volatile(&raw const (*sk).src_ip6[1]),
                core::ptr::read_volatile(&raw const (*sk).src_ip6[2]),
                core::ptr::read_volatile(&raw const (*sk).src_ip6[3]),
            ]),
        }
    };
    bound.is_loopback()
}

#[inline(always)]
fn key(cookie: u64, addr: Addr, port: Port, side: PeerSide) -> SocketKey {
    SocketKey { cookie, addr, port, side: side as u8, pad: [0; 5] }
}

/// The peer as the context names it.
#[inline(always)]
fn named(ctx: *mut bpf_sock_addr, family: Family) -> (Addr, Port) {
    // SAFETY: context fields, read word by word as the verifier wants it.
    unsafe {
        let port = Port::from_word(core::ptr::read_volatile(&raw const (*ctx).user_port) as u16);
        let addr = match family {
            Family::V4 => Addr::from_v4_word(core::ptr::read_volatile(&raw const (*ctx).user_ip4)),
            Family::V6 => Addr::from_words([
                core::ptr::read_volatile(&raw const (*ctx).user_ip6[0]),
                core::ptr::read_volatile(&raw const (*ctx).user_ip6[1]),
                core::ptr::read_volatile(&raw const (*ctx).user_ip6[2]),
                core::ptr::read_volatile(&raw const (*ctx).user_ip6[3]),
            ]),
        };
        (addr, port)
    }
}

#[inline(always)]
fn name(ctx: *mut bpf_sock_addr, family: Family, addr: Addr, port: Port) {
    // SAFETY: as in `named`.
    unsafe {
        match family {
            Family::V4 => core::ptr::write_volatile(&raw mut (*ctx).user_ip4, addr.v4_word()),
            Family::V6 => {
                let words = addr.words();
                core::ptr::write_volatile(&raw mut (*ctx).user_ip6[0], words[0]);
                core::ptr::write_volatile(&raw mut (*ctx).user_ip6[1], words[1]);
                core::ptr::write_volatile(&raw mut (*ctx).user_ip6[2], words[2]);
                core::ptr::write_volatile(&raw mut (*ctx).user_ip6[3], words[3]);
            }
        }
        core::ptr::write_volatile(&raw mut (*ctx).user_port, u32::from(port.word()));
    }
}
