//! The packet path: every program, its hook, and one call. No logic here.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod answer;
mod flow;
mod frame;
mod global;
mod hook;
mod maps;
mod service;
mod settings;

use aya_ebpf::{
    macros::{cgroup_sock_addr, classifier, xdp},
    programs::{SockAddrContext, TcContext, XdpContext},
};

use crate::flow::sweep;
use crate::frame::Link;
use crate::hook::{finish_tc, pod, sock};

/// What a pod sends: ingress of its link on the host.
#[classifier]
pub fn pod_ingress(ctx: TcContext) -> i32 {
    finish_tc(pod::ingress(&ctx, Link::Routed))
}

/// What a pod gets: egress of its link on the host.
#[classifier]
pub fn pod_egress(ctx: TcContext) -> i32 {
    finish_tc(pod::egress(&ctx, Link::Routed))
}

/// As `pod_ingress`, for a link that is a port of a bridge.
#[classifier]
pub fn port_ingress(ctx: TcContext) -> i32 {
    finish_tc(pod::ingress(&ctx, Link::BridgePort))
}

/// As `pod_ingress`, for a tap.
#[classifier]
pub fn tap_ingress(ctx: TcContext) -> i32 {
    finish_tc(pod::ingress(&ctx, Link::RoutedTap))
}

/// As `port_ingress`, for a tap.
#[classifier]
pub fn tap_port_in(ctx: TcContext) -> i32 {
    finish_tc(pod::ingress(&ctx, Link::BridgeTap))
}

/// As `pod_egress`, for a link that is a port of a bridge.
#[classifier]
pub fn port_egress(ctx: TcContext) -> i32 {
    finish_tc(pod::egress(&ctx, Link::BridgePort))
}

/// A process of the host names the peer of a connection.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    sock::connect(ctx.sock_addr, sock::Family::V4)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    sock::connect(ctx.sock_addr, sock::Family::V6)
}

/// A process of the host names the peer of a datagram.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    sock::sendmsg(ctx.sock_addr, sock::Family::V4)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    sock::sendmsg(ctx.sock_addr, sock::Family::V6)
}

/// A process of the host asks who sent a datagram.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    sock::restore(ctx.sock_addr, sock::Family::V4)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    sock::restore(ctx.sock_addr, sock::Family::V6)
}

/// A process of the host asks whom it is connected to.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    sock::restore(ctx.sock_addr, sock::Family::V4)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    sock::restore(ctx.sock_addr, sock::Family::V6)
}

/// Removes idle flows; run by the agent with `BPF_PROG_TEST_RUN`, attached nowhere. Returns how many were removed.
#[classifier]
pub fn sweep(ctx: TcContext) -> i32 {
    sweep::remove_idle(&ctx)
}

/// Looks a frame up as XDP sees it; run with `BPF_PROG_TEST_RUN`, attached nowhere. Returns a `Finding`.
#[xdp]
pub fn xdp_lookup(ctx: XdpContext) -> u32 {
    hook::xdp::look_up(ctx.ctx).number()
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
