//! A network policy as some CNIs implement it: a clsact program on each pod's link with its own table of
//! connections. It admits packets that answer the pod or begin a connection, and drops the rest. If a load balancer
//! translates on the wrong side of the policy, replies look like unknown packets.

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

/// The tuples of packets that the pod sent, before translation.
#[btf_map(name = "policy_seen")]
static SEEN: LruHashMap<Tuple, u32, 4096> = LruHashMap::new();

/// Ingress of the pod's link on the host: remembers a packet, and lets it pass.
#[classifier]
pub fn policy_from_pod(packet: TcContext) -> i32 {
    if let Some(tuple) = Tuple::of(&packet) {
        let _ = SEEN.insert(tuple, 1, BPF_ANY.into());
    }
    TC_ACT_OK
}

/// Egress of the pod's link on the host: answers and beginnings pass to the next program. (`TC_ACT_OK` would end the
/// chain: a later program could not translate a reply, and an earlier program would show a translated one here.)
#[classifier]
pub fn policy_to_pod(packet: TcContext) -> i32 {
    let Some(tuple) = Tuple::of(&packet) else { return TC_ACT_UNSPEC };
    if SEEN.get_ptr(tuple.reversed()).is_some() || tuple.begins(&packet) {
        TC_ACT_UNSPEC
    } else {
        TC_ACT_SHOT
    }
}

/// Does nothing: the cost of other programs is counted from this baseline.
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
