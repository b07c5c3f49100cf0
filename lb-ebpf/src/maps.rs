//! Every table, with an accessor for each use: the `unsafe` of map pointers is here and nowhere else.
//!
//! A pointer into a hash may be reused for another entry while it is held, because the kernel recycles elements at
//! once. What a packet needs is therefore copied out early, and never read again after a delete.

mod atomic;
mod bridge;
mod client;
mod count;
mod flags;
mod flow;
mod interest;
mod ring;
mod service;

pub use bridge::{bridge_host, bridge_host_insert, bridge_of};
pub use client::{affinity, affinity_insert, socket, socket_insert, socket_remove};
pub use count::{account, count};
pub use flow::{
    Scratch, bring_over, count_live, count_swept, flow, flow_here, flow_insert, flow_insert_new, flow_remove,
    forget_previous, has_room, is_nearly_full, may_set_bit, scratch,
};
pub use interest::{interesting, may_be_node_port, near_service, set_interesting};
pub use ring::take_slot;
pub use service::{
    backend, backend_alive, frontend, is_admitted, is_local, range_rule, service_record, slot,
};

/// The error of an insert if the key is already there.
pub const EEXIST: i32 = -17;
