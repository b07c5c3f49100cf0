//! Atomic instructions: core's atomics have no read-modify-write on this target.

use core::arch::asm;

/// Sets bits.
///
/// # Safety
/// `word` is a valid map value.
#[inline(always)]
pub unsafe fn or(word: *mut u64, mask: u64) {
    // SAFETY: the caller's contract.
    unsafe { asm!("lock *(u64 *)({word} + 0) |= {mask}", word = in(reg) word, mask = in(reg) mask) };
}

/// Adds, with wrapping, and returns what was there before.
///
/// # Safety
/// `word` is a valid map value.
#[inline(always)]
pub unsafe fn fetch_add(word: *mut u64, number: u64) -> u64 {
    let mut value = number;
    // SAFETY: the caller's contract.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u64 *)({word} + 0), {value})",
            word = in(reg) word,
            value = inout(reg) value,
        );
    }
    value
}
