//! One pipeline for each hook: read, find, decide, act. What
//! needs only `Headers` (flows, services, maps) does not know which hook runs it; what writes frames is for tc.

pub mod pod;
pub mod sock;
pub mod xdp;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};

use crate::frame::{Drop, Verdict};
use crate::maps;

/// The code of tc for an outcome. What is out of the ordinary is counted here, once, at the end.
///
/// `TCX_NEXT` and `TC_ACT_UNSPEC` are the same number; never `TC_ACT_OK`, which would skip the programs that follow
/// ours.
#[inline(always)]
pub fn finish_tc(outcome: Result<Verdict, Drop>) -> i32 {
    match outcome {
        Ok(Verdict::Continue) => TC_ACT_UNSPEC,
        Ok(Verdict::Redirect(code)) => code,
        Err(Drop(reason)) => {
            maps::count(reason);
            TC_ACT_SHOT
        }
    }
}
