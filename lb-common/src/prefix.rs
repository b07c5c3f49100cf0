//! Ranges of addresses: keys of the longest-prefix-match tries.

use crate::{Addr, wire_enum};

/// A range of addresses as a key of a trie: the key of `service_ranges`, and a part of that of `source_ranges`. The
/// bits of `addr` behind the prefix are zero.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The number of leading bits of `addr` that count: an IPv4 prefix of length n has 96 + n.
    pub len: u32,
    pub addr: Addr,
}

const _: () = assert!(size_of::<Prefix>() == 20);

impl Prefix {
    /// This one address.
    #[inline(always)]
    pub const fn host(addr: Addr) -> Self {
        Self { len: 128, addr }
    }
}

wire_enum! {
    /// The rule for an address that is no frontend on the requested port: the value of `service_ranges`, in which the
    /// longest prefix wins.
    pub enum RangeRule: u32 {
        /// Kubernetes gives this range to Services, and no Service has the address: dropped.
        Unallocated = 0,
        /// The ClusterIP of a Service, which has no such port: refused.
        ClusterIp = 1,
        /// The ClusterIP of a Service that another proxy serves: left alone.
        Others = 2,
    }
}

/// A client of the load balancer addresses of one service: what `source_ranges` compares, from the first bit on. A
/// prefix of clients is 32 bits longer than its [`Prefix`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct SourceClient {
    /// Index into `services`, big-endian.
    pub service: [u8; 4],
    pub addr: Addr,
}

const _: () = assert!(size_of::<SourceClient>() == 20);

#[cfg(feature = "user")]
mod user {
    use super::Prefix;
    use crate::Addr;
    use std::fmt;
    use std::net::IpAddr;

    impl Prefix {
        /// From an address and the length of the prefix in its own family. The bits behind the prefix are cleared; a
        /// length beyond the family's means the whole address.
        pub fn new(ip: IpAddr, len: u8) -> Self {
            let offset = if ip.is_ipv4() { 96 } else { 0 };
            let len = (u32::from(len) + offset).min(128);
            let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
            let bits = u128::from_be_bytes(Addr::from(ip).octets) & mask;
            Self { len, addr: Addr { octets: bits.to_be_bytes() } }
        }

        pub fn contains(&self, addr: Addr) -> bool {
            let mask = u128::MAX.checked_shl(128 - self.len).unwrap_or(0);
            (u128::from_be_bytes(self.addr.octets) ^ u128::from_be_bytes(addr.octets)) & mask == 0
        }
    }

    impl fmt::Display for Prefix {
        fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
            let v4 = self.addr.is_v4() && self.len >= 96;
            write!(f, "{}/{}", self.addr, if v4 { self.len - 96 } else { self.len })
        }
    }

    impl fmt::Debug for Prefix {
        fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
            fmt::Display::fmt(self, f)
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn prefix(ip: &str, len: u8) -> Prefix {
            Prefix::new(ip.parse().unwrap(), len)
        }

        #[test]
        fn bits_behind_the_prefix_are_cleared() {
            assert_eq!(prefix("10.96.255.1", 12).to_string(), "10.96.0.0/12");
            assert_eq!(prefix("fd00:10:96::1", 112).to_string(), "fd00:10:96::/112");
            assert_eq!(prefix("10.0.0.1", 0).to_string(), "0.0.0.0/0");
            assert_eq!(prefix("::1", 0).to_string(), "::/0");
            assert_eq!(prefix("10.0.0.1", 32), Prefix::host("10.0.0.1".parse::<IpAddr>().unwrap().into()));
        }

        #[test]
        fn a_prefix_contains_its_addresses_and_no_other() {
            let range = prefix("10.96.0.0", 12);
            for (ip, within) in
                [("10.96.0.1", true), ("10.111.255.255", true), ("10.112.0.0", false), ("::1", false)]
            {
                assert_eq!(range.contains(ip.parse::<IpAddr>().unwrap().into()), within, "{ip}");
            }
            assert!(!prefix("0.0.0.0", 0).contains("::1".parse::<IpAddr>().unwrap().into()));
        }

        #[test]
        fn the_blocks_of_a_range_are_those_of_its_addresses() {
            let bit = |ip: &str| crate::range_bit(ip.parse::<IpAddr>().unwrap().into());
            let bits: Vec<u32> = prefix("10.96.0.0", 12).range_bits().collect();
            assert_eq!(bits.len(), 128);
            for ip in ["10.96.0.0", "10.100.7.9", "10.111.255.255"] {
                assert!(bits.contains(&bit(ip)), "{ip}");
            }
            assert!(!bits.contains(&bit("10.112.0.0")));
            assert_eq!(prefix("10.96.0.7", 32).range_bits().collect::<Vec<_>>(), [bit("10.96.0.0")]);
            let v6: Vec<u32> = prefix("fd00:10:96::", 112).range_bits().collect();
            assert_eq!(v6, [bit("fd00:10:96::ffff")]);
            assert!(!prefix("fd00::", 63).has_blocks() && prefix("10.0.0.0", 8).has_blocks());
        }
    }
}
