//! A network policy as some CNIs have it: a clsact program on each pod's link that keeps a table of
//! connections of its own. It lets in what answers the pod and what begins a connection, and drops the
//! rest. A load balancer that translates on the wrong side of it makes replies look like strangers.

#![no_std]
#![no_main]

mod packet;

use aya_ebpf::{
    bindings::{BPF_ANY, TC_ACT_OK, TC_ACT_SHOT, TC_ACT_UNSPEC},
    btf_maps::LruHashMap,
    macros::{btf_map, classifier},
    programs::TcContext,
};

use crate::packet::Tuple;

/// What the pod sent, as it sent it.
#[btf_map(name = "policy_seen")]
static SEEN: LruHashMap<Tuple, u32, 4096> = LruHashMap::new();

/// Ingress of the pod's link on the host: remembers, and lets pass.
#[classifier]
pub fn policy_from_pod(packet: TcContext) -> i32 {
    if let Some(tuple) = Tuple::of(&packet) {
        let _ = SEEN.insert(tuple, 1, BPF_ANY.into());
    }
    TC_ACT_OK
}

/// Egress of the pod's link on the host: answers and beginnings pass, on to the next program. (`TC_ACT_OK` would
/// end the chain: nobody behind could translate a reply, and who is in front would show a translated one here.)
#[classifier]
pub fn policy_to_pod(packet: TcContext) -> i32 {
    let Some(tuple) = Tuple::of(&packet) else { return TC_ACT_UNSPEC };
    if SEEN.get_ptr(tuple.reversed()).is_some() || tuple.begins(&packet) {
        TC_ACT_UNSPEC
    } else {
        TC_ACT_SHOT
    }
}

/// Does nothing: what the others cost is counted over it.
#[classifier]
pub fn nothing(_packet: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
