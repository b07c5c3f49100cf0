//! The allocator's settings: an agent that waits most of the time should hold little.

/// One arena for all threads (the loop is one thread, the others allocate next to nothing), and large blocks by
/// mapping, so that they go back when they are freed. Before the first thread starts.
pub fn set_up() {
    #[cfg(target_env = "gnu")]
    // SAFETY: plain calls; a setting that is refused changes nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
    }
}

/// Gives back what is free: after the first state, which takes the most.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a plain call.
    unsafe {
        libc::malloc_trim(0);
    }
}
