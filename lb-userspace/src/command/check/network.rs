//! Forwarding, reverse path filters, and other sysctls in the way.

use std::fs;
use std::path::PathBuf;

use super::line::{Line, error, ok, unseen, warning};
use crate::node::netdev::{Facts, Netdev};
use crate::node::role::{Overrides, Role, role};

pub async fn check(netdev: &Netdev, roles: &Overrides) -> Vec<Line> {
    let mut lines = forwarding();
    match netdev.links().await {
        Ok(links) => lines.push(rp_filter(&links, roles)),
        Err(error) => lines.push(unseen("rp-filter", &format_args!("{error:#}"))),
    }
    lines.push(route_localnet());
    lines
}

/// A sysctl of the network namespace of the calling thread; `None` if the kernel does not have it.
fn sysctl(key: &str) -> Option<String> {
    let path = PathBuf::from("/proc/sys/net").join(key);
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn forwarding() -> Vec<Line> {
    let one = |key: &str, advice: &str| match sysctl(key).as_deref() {
        Some("0") => error(
            "forwarding",
            format!("net.{} is 0: packets of pods are not forwarded", key.replace('/', ".")),
            advice.to_owned(),
        ),
        Some(_) => ok("forwarding", format!("net.{} is on", key.replace('/', "."))),
        None => ok("forwarding", format!("no net.{}: the kernel lacks this family", key.replace('/', "."))),
    };
    let v4 = one("ipv4/ip_forward", "sysctl -w net.ipv4.ip_forward=1");
    let mut v6 =
        one("ipv6/conf/all/forwarding", "sysctl -w net.ipv6.conf.all.forwarding=1, if Services use IPv6");
    // A cluster may have IPv4 only.
    v6.level = v6.level.min(super::Level::Warning);
    vec![v4, v6]
}

/// The greater of the two settings of a link counts (Documentation/networking/ip-sysctl.rst).
fn rp_filter(links: &[Facts], roles: &Overrides) -> Line {
    let of = |name: &str| {
        sysctl(&format!("ipv4/conf/{name}/rp_filter")).and_then(|value| value.parse::<u8>().ok())
    };
    let all = of("all").unwrap_or_default();
    let is_strict = |link: &&Facts| of(&link.name).unwrap_or_default().max(all) == 1;
    let of_role = |wanted| links.iter().filter(move |link| role(link, roles).0 == wanted);
    let uplinks = of_role(Role::Uplink).count();
    // A single uplink receives every packet from outside. Replies to packets of a tunnel may leave by another link.
    let suspects = of_role(Role::Tunnel).chain(of_role(Role::Uplink).filter(|_| uplinks > 1));
    let strict: Vec<&str> = suspects.filter(is_strict).map(|link| link.name.as_str()).collect();
    if strict.is_empty() {
        return ok("rp-filter", "no strict filter on a link whose replies may leave by another one");
    }
    warning(
        "rp-filter",
        format!(
            "strict (1) on {}: packets whose reply would leave by another link are dropped",
            strict.join(", ")
        ),
        "sysctl -w net.ipv4.conf.LINK.rp_filter=2 (loose); conf.all.rp_filter must not be 1",
    )
}

/// kube-proxy sets `route_localnet` for NodePorts on 127.0.0.1, and never resets it.
fn route_localnet() -> Line {
    match sysctl("ipv4/conf/all/route_localnet").as_deref() {
        Some("1") => warning(
            "localnet",
            "net.ipv4.conf.all.route_localnet is 1, as kube-proxy sets it: neighbours can reach what listens on \
             127.0.0.1, unless a rule in KUBE-FIREWALL drops the packets",
            "sysctl -w net.ipv4.conf.all.route_localnet=0, once kube-proxy is removed; lb does not need it",
        ),
        _ => ok("localnet", "127.0.0.0/8 is not routed"),
    }
}
