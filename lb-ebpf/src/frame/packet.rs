//! A frame and what was read of it. Writes go through helpers, which work on shared and on paged frames alike.

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
use lb_common::{FlowKey, Proto};

use super::Link;

pub const ETH_LEN: u32 = 14;
pub const TCP_FIN: u8 = 1;
pub const TCP_SYN: u8 = 2;
pub const TCP_RST: u8 = 4;
pub const TCP_PSH: u8 = 8;
pub const TCP_ACK: u8 = 16;

/// `linux/if_packet.h`.
const PACKET_HOST: u32 = 0;
/// `TCP_ESTABLISHED` of `net/tcp_states.h`: of a UDP socket too, once it is connected.
const ESTABLISHED: u32 = 1;

/// A frame, and what was read of it.
pub struct Packet<'a> {
    pub skb: *mut __sk_buff,
    pub headers: &'a mut Headers,
}

/// What was read of a frame. Offsets are in bytes from the start of the frame. Holds no pointer, so that functions
/// which the verifier checks once can take it.
#[repr(C)]
pub struct Headers {
    /// The five-tuple as it stands in the frame.
    pub key: FlowKey,
    pub l3: u32,
    pub l4: u32,
    pub v6: bool,
    pub tcp_flags: u8,
    /// IPv4 header checksum as it lies in the frame.
    pub ip_check: u16,
    /// UDP: checksum as it lies in the frame. TCP: something else.
    pub l4_check: u16,
    pub pad: u16,
}

impl Headers {
    /// Nothing read yet.
    #[inline(always)]
    pub fn unread() -> Self {
        Self {
            key: FlowKey::BLANK,
            l3: ETH_LEN,
            l4: 0,
            v6: false,
            tcp_flags: 0,
            ip_check: 0,
            l4_check: 0,
            pad: 0,
        }
    }
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

/// Integers and arrays of them: any bit pattern is valid.
pub trait Bytes: Copy {}
impl Bytes for u8 {}
impl Bytes for u16 {}
impl Bytes for u32 {}
impl<T: Bytes, const N: usize> Bytes for [T; N] {}

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
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: `value` is that many writable bytes.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.skb.cast_const().cast(),
                offset,
                value.as_mut_ptr().cast::<c_void>(),
                size_of::<T>() as u32,
            )
        };
        // SAFETY: the helper filled it, and any bit pattern is valid.
        if failed == 0 { Some(unsafe { value.assume_init() }) } else { None }
    }

    /// Writes bytes of the frame. `flags` are those of `bpf_skb_store_bytes`.
    #[inline(always)]
    #[must_use]
    pub fn store<T: Copy>(&mut self, offset: u32, value: &T, flags: u64) -> bool {
        // SAFETY: `value` is that many readable bytes.
        unsafe {
            bpf_skb_store_bytes(
                self.skb,
                offset,
                core::ptr::from_ref(value).cast::<c_void>(),
                size_of::<T>() as u32,
                flags,
            ) == 0
        }
    }

    /// Sends the frame back to the pod that it came from, its MAC addresses swapped. Where the link has a peer,
    /// straight into the pod: a policy program at the link's egress has not seen what this answers.
    #[inline(always)]
    pub fn send_back(&mut self, link: Link) -> Option<i32> {
        let macs = self.load::<[u16; 6]>(0)?;
        let swapped = [macs[3], macs[4], macs[5], macs[0], macs[1], macs[2]];
        if !self.store(0, &swapped, 0) {
            return None;
        }
        if link.has_peer() {
            // At a port of a bridge the frame is for another host yet, and the pod's stack would drop it.
            // SAFETY: plain helper calls.
            return Some(unsafe {
                bpf_skb_change_type(self.skb, PACKET_HOST);
                bpf_redirect_peer(self.ifindex(), 0)
            } as i32);
        }
        // SAFETY: a plain helper call.
        Some(unsafe { bpf_redirect(self.ifindex(), 0) } as i32)
    }

    /// Is this the first segment of a connection?
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        is_syn(self.tcp_flags)
    }

    /// A datagram without a checksum (RFC 768; over IPv6, RFC 6935), or SCTP, as it is parsed.
    #[inline(always)]
    pub fn has_no_checksum(&self) -> bool {
        !self.is_tcp() && self.l4_check == 0
    }

    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        self.key.proto == Proto::Tcp as u8
    }

    /// Is there a UDP socket in this network namespace that is connected to the frame's source, from its destination?
    #[inline(always)]
    pub fn has_connected_socket(&self) -> bool {
        let (src, dst) = (self.key.src, self.key.dst);
        let (sport, dport) = (self.key.sport.word(), self.key.dport.word());
        // SAFETY: integers; the kernel reads as many bytes as it is told.
        let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
        let len = if self.v6 {
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
        // SAFETY: plain helper calls; what was found is given back.
        unsafe {
            let socket =
                bpf_sk_lookup_udp(self.skb.cast(), &raw mut tuple, len as u32, BPF_F_CURRENT_NETNS as u64, 0);
            if socket.is_null() {
                return false;
            }
            let state = (*socket).state;
            bpf_sk_release(socket.cast());
            state == ESTABLISHED
        }
    }

    /// Sends the frame to the MAC address that the flow learned, if it goes elsewhere now.
    #[inline(always)]
    pub fn send_to_mac(&mut self, mac: [u8; 6]) -> bool {
        match self.load::<[u8; 6]>(0) {
            Some(current) if current != mac => self.store(0, &mac, 0),
            Some(_) => true,
            None => false,
        }
    }

    /// Source MAC address in the low 48 bits, first byte lowest; 0 where it cannot be read.
    #[inline(always)]
    pub fn source_mac(&self) -> u64 {
        match self.load::<[u16; 3]>(6) {
            Some([a, b, c]) => u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32,
            None => 0,
        }
    }
}

#[inline(always)]
pub fn is_syn(tcp_flags: u8) -> bool {
    tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
}
