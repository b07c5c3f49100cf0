//! Names of maps and programs, as pins and `bpftool` show them. The kernel keeps 15 bytes.

/// Every map that is pinned, under its own name.
pub const MAPS: [&str; 18] = [
    INTEREST,
    INTEREST_COARSE,
    FRONTENDS,
    LOCAL_ADDRS,
    SERVICE_RANGES,
    SOURCE_RANGES,
    AFFINITY,
    SOCKETS,
    SERVICES,
    NAMES,
    SLOTS,
    BACKENDS,
    FLOWS,
    FLOWS_SYN,
    FLOWS_UDP,
    COUNTERS,
    SERVICE_STATS,
    BACKEND_STATS,
];

pub const INTEREST: &str = "interest";
pub const INTEREST_COARSE: &str = "interest_coarse";
pub const FRONTENDS: &str = "frontends";
pub const LOCAL_ADDRS: &str = "local_addrs";
pub const SERVICE_RANGES: &str = "service_ranges";
pub const SOURCE_RANGES: &str = "source_ranges";
pub const AFFINITY: &str = "affinity";
pub const SOCKETS: &str = "sockets";
pub const SERVICES: &str = "services";
pub const NAMES: &str = "names";
pub const SLOTS: &str = "slots";
pub const BACKENDS: &str = "backends";
pub const FLOWS: &str = "flows";
pub const FLOWS_SYN: &str = "flows_syn";
pub const FLOWS_UDP: &str = "flows_udp";
pub const COUNTERS: &str = "counters";
pub const SERVICE_STATS: &str = "service_stats";
pub const BACKEND_STATS: &str = "backend_stats";
/// The parts of the flow table that [`FLOWS`] and its siblings took the place of, while they are read through to.
pub const OLD_FLOWS: &str = "old_flows";
pub const OLD_FLOWS_SYN: &str = "old_flows_syn";
pub const OLD_FLOWS_UDP: &str = "old_flows_udp";
/// Updated to learn that every program which ran before has ended; not pinned.
pub const GRACE: &str = "grace";

/// The name of a part of the flow table as the programs know the one before.
#[cfg(feature = "user")]
pub fn before(part: &str) -> Option<&'static str> {
    Some(match part {
        FLOWS => OLD_FLOWS,
        FLOWS_SYN => OLD_FLOWS_SYN,
        FLOWS_UDP => OLD_FLOWS_UDP,
        _ => return None,
    })
}

pub const POD_INGRESS: &str = "pod_ingress";
pub const POD_EGRESS: &str = "pod_egress";
pub const PORT_INGRESS: &str = "port_ingress";
pub const PORT_EGRESS: &str = "port_egress";
pub const TAP_INGRESS: &str = "tap_ingress";
pub const TAP_PORT_INGRESS: &str = "tap_port_in";
/// Every program that hangs on links.
pub const ON_LINKS: [&str; 6] =
    [POD_INGRESS, POD_EGRESS, PORT_INGRESS, PORT_EGRESS, TAP_INGRESS, TAP_PORT_INGRESS];
/// Every program at the host's sockets.
pub const ON_SOCKETS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];
pub const SWEEP: &str = "sweep";

const _: () = {
    let mut i = 0;
    while i < MAPS.len() {
        assert!(MAPS[i].len() <= 15);
        i += 1;
    }
};
