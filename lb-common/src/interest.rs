//! The bitmap that lets most packets go by after one load.

use crate::{Addr, Port};

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
    let mut h = (high ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ low ^ (h >> 32)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h = (h ^ l4 ^ (h >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (h >> (64 - INTEREST_BITS)) as u32
}
