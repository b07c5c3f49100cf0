//! What XDP reads from a frame and finds in the flow table. The core is that of tc: only the context differs.

use aya_ebpf::bindings::xdp_md;
use lb_common::Finding;

use crate::flow::{self, Standing};
use crate::frame::plain;
use crate::maps;

/// Looks a frame up; at most, an entry of the previous table is taken over. Every frame that is not plain is left to
/// tc.
#[inline(always)]
pub fn look_up(xdp: *mut xdp_md) -> Finding {
    let Some(headers) = plain::parse(xdp) else { return Finding::NotPlain };
    let key = &headers.key;
    if !maps::interesting(key.dst, key.dport, key.proto) && !maps::near_service(key.dst, key.dport) {
        return Finding::NotOurs;
    }
    let Some(flow) = maps::flow(key) else { return Finding::NoFlow };
    match flow::standing(&headers, flow) {
        Standing::Good => Finding::Good,
        Standing::OtherWay => Finding::OtherWay,
        Standing::Over => Finding::Over,
        Standing::Moved => Finding::Moved,
        Standing::BackendGone => Finding::BackendGone,
    }
}
