//! Names of maps and programs, as pins and `bpftool` show them. The kernel keeps 15 bytes.

/// Declares the pinned maps; each name is written once.
macro_rules! pinned_maps {
    ($($constant:ident = $name:literal,)+) => {
        $(pub const $constant: &str = $name;)+

        /// Every map that is pinned, under its own name.
        pub const MAPS: [&str; [$($name),+].len()] = [$($constant),+];
    };
}

pinned_maps! {
    INTEREST = "interest",
    INTEREST_COARSE = "interest_coarse",
    FRONTENDS = "frontends",
    LOCAL_ADDRS = "local_addrs",
    SERVICE_RANGES = "service_ranges",
    SOURCE_RANGES = "source_ranges",
    AFFINITY = "affinity",
    SOCKETS = "sockets",
    SERVICES = "services",
    NAMES = "names",
    SLOTS = "slots",
    BACKENDS = "backends",
    FLOWS = "flows",
    FLOWS_LIVE = "flows_live",
    RINGS = "rings",
    BRIDGE_PORTS = "bridge_ports",
    BRIDGE_HOSTS = "bridge_hosts",
    COUNTERS = "counters",
    SERVICE_STATS = "service_stats",
    BACKEND_STATS = "backend_stats",
}

/// The previous flow table, which the programs still read while [`FLOWS`] replaces it.
pub const OLD_FLOWS: &str = "old_flows";
/// Two more parts of the flow table in the schemas 1 and 2, and the names by which the programs read them.
pub const FLOWS_SYN: &str = "flows_syn";
pub const FLOWS_UDP: &str = "flows_udp";
pub const OLD_FLOWS_SYN: &str = "old_flows_syn";
pub const OLD_FLOWS_UDP: &str = "old_flows_udp";
/// Updated to learn that every program which was running has ended; not pinned.
pub const GRACE: &str = "grace";

/// The name by which the programs know the previous table of a part of the flow table.
#[cfg(feature = "user")]
pub fn previous(part: &str) -> Option<&'static str> {
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
/// Every program that is attached to links.
pub const ON_LINKS: [&str; 6] =
    [POD_INGRESS, POD_EGRESS, PORT_INGRESS, PORT_EGRESS, TAP_INGRESS, TAP_PORT_INGRESS];
/// Every program at the host's sockets.
pub const ON_SOCKETS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];
pub const SWEEP: &str = "sweep";
/// Attached nowhere: tests run it on frames.
pub const XDP_LOOKUP: &str = "xdp_lookup";

const _: () = {
    let mut i = 0;
    while i < MAPS.len() {
        assert!(MAPS[i].len() <= 15);
        i += 1;
    }
};
