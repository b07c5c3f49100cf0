//! The bitmaps of the addresses and ports that matter to the packet path, as one sequence of bits.

use std::fmt;

use lb_common::{COARSE_WORDS, INTEREST_WORDS};

/// The `interest` bitmap, followed by `interest_coarse`: [`Interest::WORDS`] words.
#[derive(Clone, PartialEq)]
pub struct Interest {
    words: Vec<u64>,
}

impl Interest {
    pub const WORDS: usize = INTEREST_WORDS + COARSE_WORDS;

    /// From the content of the maps; missing words count as zero.
    pub fn from_words(mut words: Vec<u64>) -> Self {
        words.resize(Self::WORDS, 0);
        Self { words }
    }

    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Whether a bit is set. Bits are below `WORDS * 64`, as [`lb_common::interest_bit`] and its siblings return them.
    pub fn contains(&self, bit: u32) -> bool {
        self.words[bit as usize / 64] & (1 << (bit % 64)) != 0
    }

    pub fn set(&mut self, bit: u32) {
        self.words[bit as usize / 64] |= 1 << (bit % 64);
    }

    pub fn clear(&mut self, bit: u32) {
        self.words[bit as usize / 64] &= !(1 << (bit % 64));
    }

    /// The bits that are set, in ascending order.
    pub fn bits(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().zip(0_u32..).filter(|(word, _)| **word != 0).flat_map(|(word, index)| {
            let word = *word;
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| index * 64 + bit)
        })
    }
}

impl Default for Interest {
    fn default() -> Self {
        Self { words: vec![0; Self::WORDS] }
    }
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_set().entries(self.bits()).finish()
    }
}
