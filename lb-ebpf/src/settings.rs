//! Settings of the packet path. The agent writes them before the programs are loaded; the verifier treats them as
//! constants and removes the code that a setting turns off.

use aya_ebpf::Global;
pub use lb_common::ReadThrough;

/// 1: a segment of an unknown connection to a frontend continues to the kernel, which may know the connection from
/// kube-proxy's time. 0: the segment is answered with a RST.
#[unsafe(no_mangle)]
static ADOPT: Global<u8> = Global::new(0);

/// `SO_NETNS_COOKIE` of the network namespace whose processes are served.
#[unsafe(no_mangle)]
static HOST_NETNS: Global<u64> = Global::new(0);

/// 1: the processes of every network namespace are served.
#[unsafe(no_mangle)]
static EVERY_NETNS: Global<u8> = Global::new(0);

/// 1: the kernel has `bpf_set_retval` (5.18).
#[unsafe(no_mangle)]
static CAN_SET_RETVAL: Global<u8> = Global::new(0);

/// 1: a packet must come by the link of its source to open or end a flow.
#[unsafe(no_mangle)]
static SOURCE_CHECK: Global<u8> = Global::new(0);

/// A [`ReadThrough`].
#[unsafe(no_mangle)]
static READ_THROUGH: Global<u8> = Global::new(0);

/// Shards of a ring, and slots of a shard; both are powers of two.
#[unsafe(no_mangle)]
static SHARDS: Global<u32> = Global::new(1);
#[unsafe(no_mangle)]
static SHARD_SLOTS: Global<u32> = Global::new(1);

/// The number of live flows for which there is room beside those in the rings.
#[unsafe(no_mangle)]
static MAX_LIVE: Global<u32> = Global::new(0);

#[inline(always)]
pub fn adopt() -> bool {
    ADOPT.load() != 0
}

#[inline(always)]
pub fn host_netns() -> u64 {
    HOST_NETNS.load()
}

#[inline(always)]
pub fn every_netns() -> bool {
    EVERY_NETNS.load() != 0
}

#[inline(always)]
pub fn can_set_retval() -> bool {
    CAN_SET_RETVAL.load() != 0
}

#[inline(always)]
pub fn source_check() -> bool {
    SOURCE_CHECK.load() != 0
}

/// Where flows are looked for in addition to the table in force.
#[inline(always)]
pub fn read_through() -> ReadThrough {
    ReadThrough::from_number(READ_THROUGH.load()).unwrap_or(ReadThrough::Nothing)
}

#[inline(always)]
pub fn shards() -> u32 {
    SHARDS.load()
}

#[inline(always)]
pub fn shard_slots() -> u32 {
    SHARD_SLOTS.load()
}

#[inline(always)]
pub fn max_live() -> u32 {
    MAX_LIVE.load()
}
