//! The bitmaps that let most packets pass after one load.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use lb_common::{
    Addr, COARSE_FIRST, COARSE_WORDS, INTEREST_WORDS, Port, interest_bit, node_bit, port_bit, range_bit,
};

use super::atomic::or;
use super::flags::MMAPABLE;

#[btf_map(name = "interest")]
static INTEREST: Array<u64, INTEREST_WORDS, MMAPABLE> = Array::new();
#[btf_map(name = "interest_coarse")]
static INTEREST_COARSE: Array<u64, COARSE_WORDS, MMAPABLE> = Array::new();

/// Whether this address and port may matter to us. False positives are rare and only cost time.
#[inline(always)]
pub fn interesting(addr: Addr, port: Port, proto: u8) -> bool {
    let bit = interest_bit(addr, port, proto);
    match INTEREST.get(bit >> 6) {
        Some(word) => (*word >> (bit & 63)) & 1 != 0,
        None => false,
    }
}

/// Whether a range of Services is near, or an address of the node together with a NodePort of this number; asked if
/// [`interesting`] says no. One word answers for most packets.
#[inline(always)]
pub fn near_service(addr: Addr, port: Port) -> bool {
    let near = coarse(range_bit(addr));
    near & RANGE != 0 || near & NODE != 0 && may_be_node_port(port)
}

/// Whether some NodePort has this number.
#[inline(always)]
pub fn may_be_node_port(port: Port) -> bool {
    coarse(port_bit(port)) & 1 != 0
}

/// The bits of a word of `interest_coarse` from this one on, this one lowest.
#[inline(always)]
fn coarse(bit: u32) -> u64 {
    let bit = bit - COARSE_FIRST;
    match INTEREST_COARSE.get(bit >> 6) {
        Some(word) => *word >> (bit & 63),
        None => 0,
    }
}

/// What [`coarse`] returns for a block of addresses.
const RANGE: u64 = 1;
const NODE: u64 = 1 << (node_bit(Addr::UNSPECIFIED) - range_bit(Addr::UNSPECIFIED));

/// Makes an address and port [`interesting`]. The sweep clears the bit when no flow needs it any longer.
#[inline(always)]
pub fn set_interesting(addr: Addr, port: Port, proto: u8) {
    let bit = interest_bit(addr, port, proto);
    if let Some(word) = INTEREST.get_ptr_mut(bit >> 6) {
        // SAFETY: a valid map value for the program's duration. The agent and other CPUs write the same word.
        unsafe { or(word, 1 << (bit & 63)) };
    }
}
