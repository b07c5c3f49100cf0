//! What becomes of a packet.

use lb_common::Counter;

/// The outcome for a packet that continues.
#[must_use]
#[derive(Clone, Copy)]
pub enum Verdict {
    /// To the next program, then to the stack.
    Continue,
    /// What `bpf_redirect` returned.
    Redirect(i32),
}

/// Why a packet ends here: the counter of that reason.
pub struct Drop(pub Counter);
