//! Settings of the packet path. The agent writes them before the programs are loaded; the verifier treats them as
//! constants and removes the code that a setting turns off.

use aya_ebpf::Global;

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

/// 1: flows are looked for in the previous table, too.
#[unsafe(no_mangle)]
static READ_THROUGH: Global<u8> = Global::new(0);

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
pub fn reads_through() -> bool {
    READ_THROUGH.load() != 0
}
