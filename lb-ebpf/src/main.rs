//! The packet path: every program, its hook, and one call. No logic here.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod affinity;
mod flow;
mod frontend;
mod icmp;
mod maps;
mod open;
mod packet;
mod parse;
mod reject;
mod reset;
mod rewrite;
mod select;
mod sweep;
mod tc;
mod unreachable;
mod verdict;

use aya_ebpf::{macros::classifier, programs::TcContext};

use crate::tc::Link;

/// What a pod sends: ingress of its link on the host.
#[classifier]
pub fn pod_ingress(ctx: TcContext) -> i32 {
    verdict::finish(tc::ingress(&ctx, Link::Routed))
}

/// What a pod gets: egress of its link on the host.
#[classifier]
pub fn pod_egress(ctx: TcContext) -> i32 {
    verdict::finish(tc::egress(&ctx, Link::Routed))
}

/// As `pod_ingress`, for a link that is a port of a bridge.
#[classifier]
pub fn port_ingress(ctx: TcContext) -> i32 {
    verdict::finish(tc::ingress(&ctx, Link::BridgePort))
}

/// As `pod_ingress`, for a tap.
#[classifier]
pub fn tap_ingress(ctx: TcContext) -> i32 {
    verdict::finish(tc::ingress(&ctx, Link::RoutedTap))
}

/// As `port_ingress`, for a tap.
#[classifier]
pub fn tap_port_in(ctx: TcContext) -> i32 {
    verdict::finish(tc::ingress(&ctx, Link::BridgeTap))
}

/// As `pod_egress`, for a link that is a port of a bridge.
#[classifier]
pub fn port_egress(ctx: TcContext) -> i32 {
    verdict::finish(tc::egress(&ctx, Link::BridgePort))
}

/// Removes idle flows; run by the agent with `BPF_PROG_TEST_RUN`, attached nowhere. Returns how many.
#[classifier]
pub fn sweep(ctx: TcContext) -> i32 {
    sweep::remove_idle(&ctx)
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
