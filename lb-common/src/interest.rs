//! The bitmaps that let most packets pass: one by address and port, and two that are coarser.
//!
//! Bits of all three are numbered in one row: those of `interest` first, then those of `interest_coarse`.

use crate::{Addr, Port, Prefix};

/// log2 of the bitmap's length. 2^20 bits are 128 KiB; 10,000 services of 2 endpoints set 3 % of them.
pub const INTEREST_BITS: u32 = 20;

/// Length of the `interest` array in 64-bit words.
pub const INTEREST_WORDS: usize = 1 << (INTEREST_BITS - 6);

/// The bit of an address, port and protocol. Word `bit / 64` of the array, bit `bit % 64` of the word.
/// Multiply and fold: two addresses that differ in one bit land far apart, and false positives only cost time.
#[inline(always)]
pub const fn interest_bit(addr: Addr, port: Port, proto: u8) -> u32 {
    let w = addr.words();
    let high = (w[0] as u64) << 32 | w[1] as u64;
    let low = (w[2] as u64) << 32 | w[3] as u64;
    let l4 = (proto as u64) << 16 | port.word() as u64;
    let mut h = hash_high(high);
    h = (h ^ low ^ (h >> 32)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h = (h ^ l4 ^ (h >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (h >> (64 - INTEREST_BITS)) as u32
}

/// The first half of an address, hashed; the compiler computes it once for all bits of a packet.
#[inline(always)]
const fn hash_high(high: u64) -> u64 {
    (high ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xff51_afd7_ed55_8ccd)
}

/// log2 of the number of blocks of addresses: an IPv4 block is a /19, an IPv6 block one of the hashed /64.
const BLOCK_BITS: u32 = 19;
const PORTS: u32 = 1 << 16;

/// The number of the first bit of `interest_coarse`.
pub const COARSE_FIRST: u32 = 1 << INTEREST_BITS;

/// Length of the `interest_coarse` array in 64-bit words: a bit for each port number, then two for each block of
/// addresses.
pub const COARSE_WORDS: usize = (PORTS as usize + (2 << BLOCK_BITS)) / 64;

/// The bit of a port number for every address and protocol: some NodePort has the number.
#[inline(always)]
pub const fn port_bit(port: Port) -> u32 {
    COARSE_FIRST + port.host() as u32
}

/// The bit of an address's block: the block contains a ClusterIP or a part of a Service range.
#[inline(always)]
pub const fn range_bit(addr: Addr) -> u32 {
    let block = if addr.is_v4() {
        u32::from_be(addr.v4_word()) >> (32 - BLOCK_BITS)
    } else {
        let w = addr.words();
        (hash_high((w[0] as u64) << 32 | w[1] as u64) >> (64 - BLOCK_BITS)) as u32
    };
    COARSE_FIRST + PORTS + 2 * block
}

/// The bit of an address's block: the block contains an address on which NodePorts answer. The bit follows the
/// [`range_bit`] in the same word.
#[inline(always)]
pub const fn node_bit(addr: Addr) -> u32 {
    range_bit(addr) + 1
}

impl Prefix {
    /// A wider IPv4 range of Services would fill the bitmap. (kube-apiserver accepts /12 at most as
    /// `--service-cluster-ip-range`.)
    pub const WIDEST_V4: u32 = 96 + 8;
    /// Kubernetes' own limit for a ServiceCIDR.
    pub const WIDEST_V6: u32 = 64;

    /// Whether [`range_bit`]s can stand for the range.
    pub const fn has_blocks(&self) -> bool {
        self.len >= if self.addr.is_v4() { Self::WIDEST_V4 } else { Self::WIDEST_V6 }
    }

    /// The [`range_bit`]s of its addresses, if the range [has blocks](Prefix::has_blocks).
    pub fn range_bits(&self) -> impl Iterator<Item = u32> {
        let first = range_bit(self.addr);
        let block = 96 + BLOCK_BITS;
        let blocks = if self.addr.is_v4() && self.len < block { 1 << (block - self.len) } else { 1 };
        (0..blocks).map(move |block| first + 2 * block)
    }
}
