//! Headers as they lie in a frame: offsets, lengths and flags, each named once.
//!
//! The views are arrays of words, read at any address: a load of a whole header is a few instructions, whereas a
//! packed struct would be read byte by byte.

/// Types of which any bit pattern is a valid value: integers, arrays of them, and the views below.
pub trait Bytes: Copy {}
impl Bytes for u8 {}
impl Bytes for u16 {}
impl Bytes for u32 {}
impl<T: Bytes, const N: usize> Bytes for [T; N] {}

/// Two halves of a word, the first at the lower address.
#[inline(always)]
pub const fn pair(first: u16, second: u16) -> u32 {
    first as u32 | (second as u32) << 16
}

/// The inverse of [`pair`].
#[inline(always)]
pub const fn halves(word: u32) -> [u16; 2] {
    [word as u16, (word >> 16) as u16]
}

/// Ethernet. EtherTypes are in network byte order.
pub mod eth {
    use super::Bytes;

    pub const LEN: u32 = 14;
    pub const ADDRESS_LEN: u32 = 6;
    /// The destination is at the start of the frame.
    pub const DST: u32 = 0;
    pub const SRC: u32 = 6;
    pub const TYPE: u32 = 12;
    pub const VLAN_LEN: u32 = 4;

    pub const IP: u16 = 0x0800_u16.to_be();
    pub const IPV6: u16 = 0x86dd_u16.to_be();
    /// 802.1Q.
    pub const VLAN: u16 = 0x8100_u16.to_be();
    /// 802.1ad.
    pub const SERVICE_VLAN: u16 = 0x88a8_u16.to_be();

    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub struct Header([u16; 7]);

    impl Bytes for Header {}

    impl Header {
        #[inline(always)]
        pub const fn ethertype(&self) -> u16 {
            self.0[6]
        }
    }
}

/// IPv4 (RFC 791).
pub mod ipv4 {
    use super::{Bytes, pair};
    use lb_common::{Addr, FlowKey};

    /// Without options.
    pub const LEN: u32 = 20;
    pub const TOTAL_LEN: u32 = 2;
    pub const CHECK: u32 = 10;
    pub const SRC: u32 = 12;
    pub const DST: u32 = 16;

    /// `MF` and the fragment offset.
    const MORE_OR_OFFSET: u16 = 0x3fff_u16.to_be();
    const OFFSET: u16 = 0x1fff_u16.to_be();

    /// The part that every header has.
    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub struct Header([u16; 10]);

    impl Bytes for Header {}

    impl Header {
        /// Whether version and length are those of an IPv4 header without options.
        #[inline(always)]
        pub const fn is_plain(&self) -> bool {
            self.0[0].to_be() >> 8 == 0x45
        }

        #[inline(always)]
        pub const fn is_v4(&self) -> bool {
            self.0[0].to_be() >> 12 == 4
        }

        /// Length in bytes, with options.
        #[inline(always)]
        pub const fn len(&self) -> u32 {
            (self.0[0].to_be() >> 8 & 0xf) as u32 * 4
        }

        /// Length of the packet in bytes; 0 if the aggregate is too long for the field.
        #[inline(always)]
        pub const fn total_len(&self) -> u32 {
            self.0[1].to_be() as u32
        }

        #[inline(always)]
        pub const fn is_fragment(&self) -> bool {
            self.0[3] & MORE_OR_OFFSET != 0
        }

        /// Whether the packet begins here: a whole packet, or its first fragment.
        #[inline(always)]
        pub const fn is_first(&self) -> bool {
            self.0[3] & OFFSET == 0
        }

        #[inline(always)]
        pub const fn proto(&self) -> u8 {
            (self.0[4].to_be() & 0xff) as u8
        }

        /// The checksum as it lies in the frame.
        #[inline(always)]
        pub const fn check(&self) -> u16 {
            self.0[5]
        }

        #[inline(always)]
        pub const fn src(&self) -> Addr {
            Addr::from_v4_word(pair(self.0[6], self.0[7]))
        }

        #[inline(always)]
        pub const fn dst(&self) -> Addr {
            Addr::from_v4_word(pair(self.0[8], self.0[9]))
        }

        /// The five-tuple, with `ports` as they lie in the frame.
        #[inline(always)]
        pub const fn key(&self, ports: u32) -> FlowKey {
            FlowKey::from_words(self.src(), self.dst(), ports, self.proto())
        }
    }
}

/// IPv6 (RFC 8200).
pub mod ipv6 {
    use super::Bytes;
    use lb_common::{Addr, FlowKey};

    pub const LEN: u32 = 40;
    pub const PAYLOAD_LEN: u32 = 4;
    pub const SRC: u32 = 8;
    pub const DST: u32 = 24;

    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub struct Header([u32; 10]);

    impl Bytes for Header {}

    impl Header {
        #[inline(always)]
        pub const fn is_v6(&self) -> bool {
            self.0[0].to_be() >> 28 == 6
        }

        /// Length in bytes of what follows the header; 0 if the aggregate is too long for the field.
        #[inline(always)]
        pub const fn payload_len(&self) -> u32 {
            self.0[1].to_be() >> 16
        }

        /// What follows: a protocol, or an extension header.
        #[inline(always)]
        pub const fn next(&self) -> u8 {
            (self.0[1].to_be() >> 8) as u8
        }

        #[inline(always)]
        pub const fn src(&self) -> Addr {
            Addr::from_words([self.0[2], self.0[3], self.0[4], self.0[5]])
        }

        #[inline(always)]
        pub const fn dst(&self) -> Addr {
            Addr::from_words([self.0[6], self.0[7], self.0[8], self.0[9]])
        }

        /// Whether an end is in ::ffff:0:0/96. Such an address belongs to no node, and would be taken for IPv4.
        #[inline(always)]
        pub const fn is_mapped(&self) -> bool {
            self.src().is_v4() || self.dst().is_v4()
        }

        /// The five-tuple if no extension header follows, with `ports` as they lie in the frame.
        #[inline(always)]
        pub const fn key(&self, ports: u32) -> FlowKey {
            FlowKey::from_words(self.src(), self.dst(), ports, self.next())
        }
    }
}

/// The first bytes of TCP, UDP and SCTP: the ports, then four bytes that differ.
pub mod l4 {
    use super::{Bytes, pair};

    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub struct Start([u16; 4]);

    impl Bytes for Start {}

    impl Start {
        /// The ports as they lie in the frame, source first.
        #[inline(always)]
        pub const fn ports(&self) -> u32 {
            pair(self.0[0], self.0[1])
        }

        /// The checksum of UDP; of TCP and SCTP something else.
        #[inline(always)]
        pub const fn udp_check(&self) -> u16 {
            self.0[3]
        }
    }
}

/// TCP (RFC 9293).
pub mod tcp {
    use super::Bytes;

    /// Without options.
    pub const LEN: u32 = 20;
    /// The 16 bits of data offset and flags.
    pub const OFFSET_AND_FLAGS: u32 = 12;
    pub const CHECK: u32 = 16;

    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;

    /// The part that every header has.
    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub struct Header([u32; 5]);

    impl Bytes for Header {}

    impl Header {
        /// Without options, a window and a checksum. `ports`, `seq` and `ack` as they lie in the frame.
        #[inline(always)]
        pub const fn new(ports: u32, seq: u32, ack: u32, flags: u8) -> Self {
            Self([ports, seq, ack, (5 << 28 | (flags as u32) << 16).to_be(), 0])
        }

        /// In network byte order, as is [`Header::ack`].
        #[inline(always)]
        pub const fn seq(&self) -> u32 {
            self.0[1]
        }

        #[inline(always)]
        pub const fn ack(&self) -> u32 {
            self.0[2]
        }

        /// Length in bytes, with options.
        #[inline(always)]
        pub const fn len(&self) -> u32 {
            (self.0[3].to_be() >> 28) * 4
        }

        #[inline(always)]
        pub const fn flags(&self) -> u8 {
            (self.0[3].to_be() >> 16) as u8
        }

        #[inline(always)]
        pub const fn words(&self) -> &[u32; 5] {
            &self.0
        }

        #[inline(always)]
        pub const fn set_check(&mut self, check: u16) {
            self.0[4] = check as u32;
        }
    }
}

/// UDP (RFC 768).
pub mod udp {
    pub const CHECK: u32 = 6;
}

/// SCTP (RFC 9260).
pub mod sctp {
    /// The common header.
    pub const LEN: u32 = 12;
}

/// ICMP (RFC 792) and ICMPv6 (RFC 4443).
pub mod icmp {
    /// Protocol numbers.
    pub const V4: u8 = 1;
    pub const V6: u8 = 58;

    /// The header in front of what a message quotes.
    pub const LEN: u32 = 8;
    pub const CHECK: u32 = 2;
}
