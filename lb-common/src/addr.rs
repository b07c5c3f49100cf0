//! One address type for both families, one port type, protocol numbers.

use crate::wire_enum;

/// An IPv6 address, or an IPv4 address as v4-mapped IPv6 (`::ffff:a.b.c.d`, RFC 4291 2.5.5.2): one key and one
/// code path for both families. Network byte order. Aligned to 4, so that the packet path copies words.
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr {
    pub octets: [u8; 16],
}

const _: () = assert!(size_of::<Addr>() == 16);

impl Addr {
    pub const UNSPECIFIED: Self = Self { octets: [0; 16] };

    /// The four 32-bit words as they lie in memory (network byte order within each).
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        // SAFETY: same size, and any bit pattern is valid on both sides.
        unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(self.octets) }
    }

    /// The inverse of [`Addr::words`].
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        // SAFETY: same size, and any bit pattern is valid on both sides.
        Self { octets: unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) } }
    }

    /// An IPv4 address from its word in network byte order, as it lies in a packet.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self::from_words([0, 0, 0xffff_u32.to_be(), word])
    }

    /// The IPv4 address as a word in network byte order; meaningless unless [`Addr::is_v4`].
    #[inline(always)]
    pub const fn v4_word(self) -> u32 {
        self.words()[3]
    }

    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        let words = self.words();
        words[0] == 0 && words[1] == 0 && words[2] == 0xffff_u32.to_be()
    }

    /// 127.0.0.0/8 and ::1.
    #[inline(always)]
    pub const fn is_loopback(self) -> bool {
        let words = self.words();
        words[0] == 0
            && words[1] == 0
            && if words[2] == 0 { words[3] == 1_u32.to_be() } else { self.is_v4() && self.octets[12] == 127 }
    }

    /// Equality by words: the result of `==` in four compares on the bpf target.
    #[inline(always)]
    pub const fn same(self, other: Self) -> bool {
        let (a, b) = (self.words(), other.words());
        a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3]
    }
}

/// A TCP, UDP or SCTP port in network byte order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Port {
    pub be: [u8; 2],
}

const _: () = assert!(size_of::<Port>() == 2);

impl Port {
    pub const fn new(host: u16) -> Self {
        Self { be: host.to_be_bytes() }
    }

    #[inline(always)]
    pub const fn host(self) -> u16 {
        u16::from_be_bytes(self.be)
    }

    /// The two bytes as they lie in memory.
    #[inline(always)]
    pub const fn word(self) -> u16 {
        u16::from_ne_bytes(self.be)
    }

    /// The inverse of [`Port::word`].
    #[inline(always)]
    pub const fn from_word(word: u16) -> Self {
        Self { be: word.to_ne_bytes() }
    }
}

wire_enum! {
    /// IANA protocol numbers of the transports that a Service can have.
    #[derive(Hash)]
    pub enum Proto: u8 {
        Tcp = 6,
        Udp = 17,
        Sctp = 132,
    }
}

#[cfg(feature = "user")]
mod user {
    use super::{Addr, Port, Proto};
    use std::fmt;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    impl From<IpAddr> for Addr {
        fn from(ip: IpAddr) -> Self {
            match ip {
                IpAddr::V4(v4) => v4.into(),
                IpAddr::V6(v6) => v6.into(),
            }
        }
    }

    impl From<Ipv4Addr> for Addr {
        fn from(v4: Ipv4Addr) -> Self {
            Self { octets: v4.to_ipv6_mapped().octets() }
        }
    }

    impl From<Ipv6Addr> for Addr {
        fn from(v6: Ipv6Addr) -> Self {
            Self { octets: v6.octets() }
        }
    }

    impl From<Addr> for IpAddr {
        fn from(addr: Addr) -> Self {
            Ipv6Addr::from(addr.octets).to_canonical()
        }
    }

    impl fmt::Display for Addr {
        fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
            IpAddr::from(*self).fmt(f)
        }
    }

    impl fmt::Debug for Addr {
        fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
            fmt::Display::fmt(self, f)
        }
    }

    impl fmt::Display for Port {
        fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
            self.host().fmt(f)
        }
    }

    impl fmt::Debug for Port {
        fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
            fmt::Display::fmt(self, f)
        }
    }

    impl fmt::Display for Proto {
        fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.pad(match self {
                Self::Tcp => "TCP",
                Self::Udp => "UDP",
                Self::Sctp => "SCTP",
            })
        }
    }
}
