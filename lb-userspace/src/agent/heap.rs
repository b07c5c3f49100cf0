//! Settings of the allocator: an agent that is idle most of the time should hold little memory.

/// Sets one arena for all threads (the loop is one thread, the others allocate next to nothing), and maps large blocks,
/// so that they return to the kernel when they are freed. Call this before the first thread starts.
pub fn set_up() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the calls have no preconditions; a setting that is refused changes nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
    }
}

/// Returns free memory to the kernel. Useful after the first state, which takes the most memory.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}
