//! What becomes of a packet, and the counting of what is out of the ordinary: once, at the end.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use lb_common::Counter;

use crate::maps;

/// The outcome for a packet that goes on.
#[must_use]
#[derive(Clone, Copy)]
pub enum Verdict {
    /// To the next program, then to the stack. `TCX_NEXT` and `TC_ACT_UNSPEC` are the same number; never
    /// `TC_ACT_OK`, which would pass over the programs behind us.
    Continue,
    /// What `bpf_redirect` answered.
    Redirect(i32),
}

/// Why a packet ends here: the counter of that reason.
pub struct Drop(pub Counter);

#[inline(always)]
pub fn finish(outcome: Result<Verdict, Drop>) -> i32 {
    match outcome {
        Ok(Verdict::Continue) => TC_ACT_UNSPEC,
        Ok(Verdict::Redirect(code)) => code,
        Err(Drop(reason)) => {
            maps::count(reason);
            TC_ACT_SHOT
        }
    }
}
