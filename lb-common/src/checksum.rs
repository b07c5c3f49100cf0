//! One's complement arithmetic of the Internet checksum (RFC 1071), and its incremental update (RFC 1624).
//!
//! Words are taken as they lie in memory: the sum is the same in either byte order (RFC 1071, 2 (B)). Sums of words
//! are kept in 64 bits and folded at the end.

use crate::Addr;

/// The difference that an address makes to a sum if `new` takes the place of `old`: RFC 1624's `~m + m'`, not folded.
#[inline(always)]
pub const fn delta(old: Addr, new: Addr) -> u64 {
    let (old, new) = (old.words(), new.words());
    !old[0] as u64
        + !old[1] as u64
        + !old[2] as u64
        + !old[3] as u64
        + new[0] as u64
        + new[1] as u64
        + new[2] as u64
        + new[3] as u64
}

/// The difference that a word of 32 bits makes to a sum; see [`delta`].
#[inline(always)]
pub const fn delta_word(old: u32, new: u32) -> u64 {
    !old as u64 + new as u64
}

/// The sum of words.
#[inline(always)]
pub const fn sum<const N: usize>(words: &[u32; N]) -> u64 {
    let mut sum = 0;
    let mut i = 0;
    while i < N {
        sum += words[i] as u64;
        i += 1;
    }
    sum
}

/// Folds a sum to 32 bits.
#[inline(always)]
pub const fn fold_32(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

/// Folds a sum to 16 bits.
#[inline(always)]
pub const fn fold_16(sum: u64) -> u16 {
    let sum = fold_32(sum) as u64;
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// A checksum field after a change of what it covers: RFC 1624, equation 3. `change` is a sum of differences.
#[inline(always)]
pub const fn updated(check: u16, change: u64) -> u16 {
    !fold_16(!check as u64 + change)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The checksum of 16-bit words, by the definition of RFC 1071: end-around carry after every addition.
    fn full(words: &[u16]) -> u16 {
        let add = |sum: u16, word: &u16| {
            let (sum, carry) = sum.overflowing_add(*word);
            sum + u16::from(carry)
        };
        !words.iter().fold(0, add)
    }

    fn halves(words: &[u32]) -> Vec<u16> {
        words.iter().flat_map(|word| [*word as u16, (*word >> 16) as u16]).collect()
    }

    fn addr() -> impl Strategy<Value = Addr> {
        let extreme = prop_oneof![Just(0), Just(u32::MAX), Just(0xffff), any::<u32>()];
        prop::array::uniform4(extreme).prop_map(Addr::from_words)
    }

    proptest! {
        #[test]
        fn a_folded_sum_is_the_full_sum(words in prop::array::uniform10(any::<u32>())) {
            prop_assert_eq!(!fold_16(sum(&words)), full(&halves(&words)));
            prop_assert_eq!(fold_16(u64::from(fold_32(sum(&words)))), fold_16(sum(&words)));
        }

        /// 0x0000 and 0xffff are one number in one's complement; a header is never all zero, so that its sum is not
        /// 0x0000 and its checksum not 0xffff.
        #[test]
        fn an_update_is_a_new_full_sum(
            version in 0x45_u32..0x50, rest in any::<[u32; 2]>(), old in addr(), new in addr()
        ) {
            let packet = |addr: Addr| {
                let a = addr.words();
                halves(&[version, rest[0], rest[1], a[0], a[1], a[2], a[3]])
            };
            let check = full(&packet(old));
            prop_assert_eq!(updated(check, delta(old, new)), full(&packet(new)));
            prop_assert_eq!(updated(check, u64::from(fold_32(delta(old, new)))), full(&packet(new)));
        }

        #[test]
        fn a_word_is_updated_as_an_address_is(old in any::<u32>(), new in any::<u32>(), version in 0x45_u32..0x50) {
            let check = full(&halves(&[version, old]));
            prop_assert_eq!(updated(check, delta_word(old, new)), full(&halves(&[version, new])));
            let (v4, v6) = (Addr::from_v4_word(old), Addr::from_v4_word(new));
            prop_assert_eq!(fold_16(delta(v4, v6)), fold_16(delta_word(old, new) + 3 * 0xffff_ffff));
        }
    }

    #[test]
    fn a_carry_that_carries_again_is_kept() {
        assert_eq!(fold_32(0x1_ffff_ffff), 1);
        assert_eq!(fold_16(0x1_ffff), 1);
    }

    #[test]
    fn nothing_changes_if_nothing_is_replaced() {
        let addr = Addr::from_words([1, 2, 3, 4]);
        assert_eq!(updated(0x1234, delta(addr, addr)), 0x1234);
    }

    /// The example of RFC 1624, section 4: a word changes from 0x5555 to 0x3285 under a checksum of 0xdd2f.
    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(updated(0xdd2f, u64::from(!0x5555_u16) + 0x3285), 0x0000);
    }
}
