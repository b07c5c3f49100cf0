//! The addresses of a Service.

use ipnet::IpNet;
use k8s_openapi::api::core::v1;
use lb_common::Addr;

use super::name::Family;
use super::notice::{Problem, Severity};
use super::wire::{address, net};

/// `clusterIPs[i]` is of family `ipFamilies[i]`. Without families, only `clusterIP` counts (as in kube-proxy, and as
/// manifests written by hand need).
pub(super) fn cluster_ips(spec: &v1::ServiceSpec, problems: &mut Vec<Problem>) -> Vec<Addr> {
    let one = spec.cluster_ip.iter().filter(|ip| !ip.is_empty());
    let many: Vec<&String> = match spec.cluster_ips.as_deref() {
        None | Some([]) => one.collect(),
        Some(ips) => ips.iter().collect(),
    };
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let mut usable: Vec<Addr> = Vec::new();
    if families.is_empty() {
        if many.len() > 1 {
            problems.push(Problem::new(
                Severity::Warning,
                format!("clusterIPs without ipFamilies: only {} counts", many[0]),
            ));
        }
        let only = spec.cluster_ip.as_ref().filter(|ip| !ip.is_empty()).or(many.first().copied());
        usable.extend(only.and_then(|ip| cluster_ip(ip, None, problems)));
        return usable;
    }
    for (index, family) in families.iter().enumerate() {
        let Some(ip) = many.get(index) else { continue };
        let expected = match family.as_str() {
            "IPv4" => Family::Ipv4,
            "IPv6" => Family::Ipv6,
            other => {
                problems.push(Problem::new(Severity::Error, format!("ipFamilies: \"{other}\" is not known")));
                continue;
            }
        };
        if let Some(addr) = cluster_ip(ip, Some(expected), problems)
            && !usable.iter().any(|other| Family::of(*other) == expected)
        {
            usable.push(addr);
        }
    }
    usable
}

fn cluster_ip(text: &str, expected: Option<Family>, problems: &mut Vec<Problem>) -> Option<Addr> {
    let text = text.trim();
    match (address(text), expected) {
        (Err(error), _) => {
            problems.push(Problem::new(Severity::Error, format!("clusterIP: {error}")));
            None
        }
        (Ok(addr), Some(family)) if Family::of(addr) != family => {
            problems
                .push(Problem::new(Severity::Error, format!("clusterIP: {addr} is not of family {family}")));
            None
        }
        (Ok(addr), _) => Some(addr),
    }
}

/// The addresses to which clients of a load balancer connect: those with `ipMode` VIP or without `ipMode` (KEP-1860).
pub(super) fn load_balancer_ips(
    status: Option<&v1::ServiceStatus>,
    problems: &mut Vec<Problem>,
) -> Vec<Addr> {
    let ingress = status.and_then(|s| s.load_balancer.as_ref()).and_then(|lb| lb.ingress.as_ref());
    let vips = ingress
        .into_iter()
        .flatten()
        .filter(|ingress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"))
        .filter_map(|ingress| ingress.ip.as_deref())
        .filter(|ip| !ip.is_empty());
    usable("status.loadBalancer.ingress", vips, problems)
}

pub(super) fn external_ips(spec: &v1::ServiceSpec, problems: &mut Vec<Problem>) -> Vec<Addr> {
    usable("externalIPs", spec.external_ips.iter().flatten().map(String::as_str), problems)
}

/// `loadBalancerSourceRanges`. A range that cannot be read is ignored, as in kube-proxy (k/k pkg/proxy/serviceport.go).
pub(super) fn source_ranges(spec: &v1::ServiceSpec, problems: &mut Vec<Problem>) -> Vec<IpNet> {
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    let mut nets = Vec::new();
    for range in ranges {
        match net(range) {
            Ok(net) => nets.push(net),
            Err(error) => problems
                .push(Problem::new(Severity::Error, format!("loadBalancerSourceRanges: {error}: ignored"))),
        }
    }
    nets.sort();
    nets.dedup();
    nets
}

fn usable<'a>(field: &str, ips: impl Iterator<Item = &'a str>, problems: &mut Vec<Problem>) -> Vec<Addr> {
    let mut addrs = Vec::new();
    for ip in ips {
        match address(ip) {
            Ok(addr) => addrs.push(addr),
            Err(error) => problems.push(Problem::new(Severity::Error, format!("{field}: {error}"))),
        }
    }
    addrs.sort();
    addrs.dedup();
    addrs
}
