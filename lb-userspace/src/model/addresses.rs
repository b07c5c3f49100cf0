//! The addresses of a Service.

use k8s_openapi::api::core::v1;
use lb_common::Addr;

use super::notice::Severity;
use super::service::Problem;
use super::wire::address;
use crate::desired::Family;

/// `clusterIPs[i]` is of family `ipFamilies[i]`; without families, `clusterIP` alone counts (kube-proxy does so,
/// and manifests written by hand need it).
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

/// Load balancer addresses with `ipMode` VIP (or none, KEP-1860), and externalIPs.
pub(super) fn external_families(
    spec: &v1::ServiceSpec,
    status: Option<&v1::ServiceStatus>,
    problems: &mut Vec<Problem>,
) -> Vec<Family> {
    let ingress = status.and_then(|s| s.load_balancer.as_ref()).and_then(|lb| lb.ingress.as_ref());
    let vips = ingress
        .into_iter()
        .flatten()
        .filter(|ingress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"))
        .filter_map(|ingress| ingress.ip.as_deref())
        .filter(|ip| !ip.is_empty())
        .map(|ip| ("status.loadBalancer.ingress", ip));
    let external = spec.external_ips.iter().flatten().map(|ip| ("externalIPs", ip.as_str()));
    let mut families = Vec::new();
    for (field, ip) in vips.chain(external) {
        match address(ip) {
            Ok(addr) => families.push(Family::of(addr)),
            Err(error) => problems.push(Problem::new(Severity::Error, format!("{field}: {error}"))),
        }
    }
    families.sort();
    families.dedup();
    families
}
