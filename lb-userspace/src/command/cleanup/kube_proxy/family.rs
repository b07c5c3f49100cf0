//! Address families as netfilter tells them apart.

use std::fmt;

/// The family of a table: `ip` or `ip6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NfFamily {
    V4,
    V6,
}

impl NfFamily {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// `AF_INET` or `AF_INET6`; `NFPROTO_*` are the same numbers.
    pub(crate) const fn number(self) -> u8 {
        (match self {
            Self::V4 => libc::AF_INET,
            Self::V6 => libc::AF_INET6,
        }) as u8
    }
}

impl fmt::Display for NfFamily {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        })
    }
}
