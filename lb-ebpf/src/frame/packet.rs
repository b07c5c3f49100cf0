//! A frame at tc, and what was read from it. Writes go through helpers, which work on shared and on paged frames alike.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_CURRENT_NETNS, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::{
        bpf_redirect, bpf_redirect_peer, bpf_sk_lookup_udp, bpf_sk_release, bpf_skb_change_type,
        bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
};

use super::headers::Headers;
use super::layout::{Bytes, eth};
use super::link::Link;
use crate::global::global;

/// `linux/if_packet.h`.
const PACKET_HOST: u32 = 0;
/// `TCP_ESTABLISHED` of `net/tcp_states.h`: the state of a UDP socket, too, once it is connected.
const ESTABLISHED: u32 = 1;

/// A frame at tc, and what was read from it.
pub struct Packet<'a> {
    pub skb: *mut __sk_buff,
    pub headers: &'a mut Headers,
}

impl Deref for Packet<'_> {
    type Target = Headers;

    #[inline(always)]
    fn deref(&self) -> &Headers {
        self.headers
    }
}

impl DerefMut for Packet<'_> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Headers {
        self.headers
    }
}

impl Packet<'_> {
    /// Length of the frame in bytes; of the whole aggregate for GSO.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        // SAFETY: the context pointer is valid for the program's duration.
        unsafe { (*self.skb).len }
    }

    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb).ifindex }
    }

    /// Copies bytes of the frame, linear or not.
    #[inline(always)]
    pub fn load<T: Bytes>(&self, offset: u32) -> Option<T> {
        load(self.skb, offset)
    }

    /// Writes bytes of the frame. `flags` are those of `bpf_skb_store_bytes`.
    #[inline(always)]
    #[must_use]
    pub fn store<T: Copy>(&mut self, offset: u32, value: &T, flags: u64) -> bool {
        store(self.skb, offset, value, flags)
    }

    /// Sends the frame back to the pod that it came from, its MAC addresses swapped. If the link has a peer, the frame
    /// goes straight into the pod: a policy program at the link's egress has not seen what this answers. `None` if the
    /// kernel refused.
    #[inline(always)]
    pub fn send_back(&mut self, link: Link) -> Option<i32> {
        let code = turn_round(self.skb, link.has_peer());
        if code == REFUSED { None } else { Some(code) }
    }

    /// Whether this network namespace has a UDP socket that is connected to the frame's source from its destination.
    #[inline(always)]
    pub fn has_connected_socket(&mut self) -> bool {
        connected_socket(self.skb, self.headers)
    }

    /// Makes this the frame's destination MAC address. Returns false if the kernel refused.
    #[inline(always)]
    pub fn send_to_mac(&mut self, mac: [u8; 6]) -> bool {
        match self.load::<[u8; 6]>(eth::DST) {
            Some(current) if current != mac => self.store(eth::DST, &mac, 0),
            Some(_) => true,
            None => false,
        }
    }

    /// Source MAC address in the low 48 bits, first byte lowest; 0 if it cannot be read.
    #[inline(always)]
    pub fn source_mac(&self) -> u64 {
        let mut word = 0_u64;
        // SAFETY: `word` has six writable bytes and two more; the helper clears the six if it fails.
        unsafe {
            bpf_skb_load_bytes(
                self.skb.cast_const().cast(),
                eth::SRC,
                (&raw mut word).cast(),
                eth::ADDRESS_LEN,
            )
        };
        u64::from_le(word)
    }
}

#[inline(always)]
fn load<T: Bytes>(skb: *mut __sk_buff, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: `value` is that many writable bytes.
    let failed = unsafe {
        bpf_skb_load_bytes(
            skb.cast_const().cast(),
            offset,
            value.as_mut_ptr().cast::<c_void>(),
            size_of::<T>() as u32,
        )
    };
    // SAFETY: the helper filled it, and any bit pattern is valid.
    if failed == 0 { Some(unsafe { value.assume_init() }) } else { None }
}

#[inline(always)]
fn store<T: Copy>(skb: *mut __sk_buff, offset: u32, value: &T, flags: u64) -> bool {
    // SAFETY: `value` is that many readable bytes.
    unsafe {
        bpf_skb_store_bytes(
            skb,
            offset,
            core::ptr::from_ref(value).cast::<c_void>(),
            size_of::<T>() as u32,
            flags,
        ) == 0
    }
}

/// The answer of `turn_round` if the kernel refused. It is no verdict of a redirect.
const REFUSED: i32 = -1;

global!(
    /// Swaps the MAC addresses and redirects the frame; returns the verdict, or `REFUSED`. Few packets need this, so
    /// that the cost of a call does not matter, and the call spares the verifier a copy on each path that ends here.
    fn turn_round(skb: *mut __sk_buff, has_peer: bool) -> i32 = swap_and_redirect, null: REFUSED
);

#[inline(always)]
fn swap_and_redirect(skb: *mut __sk_buff, has_peer: bool) -> i32 {
    let Some(macs) = load::<[u16; 6]>(skb, eth::DST) else { return REFUSED };
    let swapped = [macs[3], macs[4], macs[5], macs[0], macs[1], macs[2]];
    if !store(skb, eth::DST, &swapped, 0) {
        return REFUSED;
    }
    // SAFETY: plain helper calls, and a field of the context.
    unsafe {
        let ifindex = (*skb).ifindex;
        if !has_peer {
            return bpf_redirect(ifindex, 0) as i32;
        }
        // At a port of a bridge the frame is still marked as for another host, and the pod's stack would drop it.
        bpf_skb_change_type(skb, PACKET_HOST);
        bpf_redirect_peer(ifindex, 0) as i32
    }
}

global!(
    /// Whether the socket is there. A call, because the socket's tuple takes much of the stack and few packets ask.
    fn connected_socket(skb: *mut __sk_buff, headers: &mut Headers) -> bool = is_connected, null: false
);

#[inline(always)]
fn is_connected(skb: *mut __sk_buff, headers: &mut Headers) -> bool {
    let (src, dst) = (headers.key.src, headers.key.dst);
    let (sport, dport) = (headers.key.sport.word(), headers.key.dport.word());
    // SAFETY: integers; the kernel reads as many bytes as it is told.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let len = if headers.v6 {
        let (saddr, daddr) = (src.words(), dst.words());
        let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 { saddr, daddr, sport, dport };
        tuple.__bindgen_anon_1.ipv6 = ipv6;
        size_of_val(&ipv6)
    } else {
        let (saddr, daddr) = (src.v4_word(), dst.v4_word());
        let ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 { saddr, daddr, sport, dport };
        tuple.__bindgen_anon_1.ipv4 = ipv4;
        size_of_val(&ipv4)
    };
    // SAFETY: plain helper calls; the socket is released.
    unsafe {
        let socket = bpf_sk_lookup_udp(skb.cast(), &raw mut tuple, len as u32, BPF_F_CURRENT_NETNS as u64, 0);
        if socket.is_null() {
            return false;
        }
        let state = (*socket).state;
        bpf_sk_release(socket.cast());
        state == ESTABLISHED
    }
}
