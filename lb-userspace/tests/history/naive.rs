//! What each frontend should lead to, recomputed from all objects. Written from the rules of kube-proxy
//! (pkg/proxy/topology.go, endpointslicecache.go), not from the model: plain lists, no indexes, no increments.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use lb_common::FrontendKind;

use super::objects::{BALANCERS, EXTERNALS, NODE, PORTS, RANGES, TestEndpoint, TestService, TestSlice, VIPS};

pub type Address = (SocketAddr, String);
/// The age and name of a claimant, and what it has at the address.
type Claim = (u32, String, (FrontendKind, Behind));

#[derive(Clone, Debug, PartialEq)]
pub struct Behind {
    pub cluster: BTreeSet<SocketAddr>,
    pub local: BTreeSet<SocketAddr>,
    pub internal_local: bool,
    pub external_local: bool,
    pub has_endpoints: bool,
    pub affinity: u32,
    /// The clients that may use load balancer addresses; `None` admits all.
    pub ranges: Option<BTreeSet<String>>,
    /// The owning Service: two Services with equal sets must not be confused.
    pub owner: String,
    pub port: String,
}

pub fn frontends(
    services: &[TestService],
    slices: &[TestSlice],
    zone: Option<u8>,
) -> BTreeMap<Address, (FrontendKind, Behind)> {
    let mut claims: BTreeMap<Address, Vec<Claim>> = BTreeMap::new();
    for service in services.iter().filter(|service| !service.other_proxy) {
        for vip in &service.vips {
            let ip: IpAddr = VIPS[*vip].parse().unwrap();
            for port in &service.ports {
                let (name, number, protocol) = PORTS[*port];
                let behind = behind(service, *port, ip.is_ipv6(), slices, zone);
                let age = service.created.unwrap_or(u32::MAX);
                let mut claim = |ip, number, kind| {
                    let key = (SocketAddr::new(ip, number), protocol.to_string());
                    let claim = (age, format!("s{} {name}", service.name), (kind, behind.clone()));
                    claims.entry(key).or_default().push(claim);
                };
                // Within one Service, the kind that comes first gets the address.
                claim(ip, number, FrontendKind::Cluster);
                for vip in of_family(&service.balancers, &BALANCERS, ip) {
                    claim(vip, number, FrontendKind::LoadBalancer);
                }
                for external in of_family(&service.externals, &EXTERNALS, ip) {
                    claim(external, number, FrontendKind::External);
                }
                if service.node_port {
                    let any = if ip.is_ipv6() { IpAddr::from([0; 16]) } else { IpAddr::from([0; 4]) };
                    claim(any, 30_000 + *port as u16, FrontendKind::NodePort);
                }
            }
        }
    }
    let first = |mut claims: Vec<Claim>| {
        claims.sort_by_key(|(created, name, _)| (*created, name.clone()));
        claims.remove(0).2
    };
    claims.into_iter().map(|(address, claims)| (address, first(claims))).collect()
}

/// The chosen addresses that have the same family as `other`.
fn of_family<'a>(chosen: &'a [usize], all: &'a [&str], other: IpAddr) -> impl Iterator<Item = IpAddr> + 'a {
    let addresses = chosen.iter().map(|number| all[*number].parse::<IpAddr>().unwrap());
    addresses.filter(move |ip| ip.is_ipv4() == other.is_ipv4())
}

/// A range of all addresses lifts the restriction; a family without a range has none. The node is 127.0.0.1.
fn ranges(service: &TestService, is_v6: bool) -> Option<BTreeSet<String>> {
    let ours = service.ranges.iter().map(|net| RANGES[*net]).filter(|net| net.contains(':') == is_v6);
    let mut ranges: BTreeSet<String> = ours.map(str::to_owned).collect();
    let any: IpAddr = if is_v6 { [0; 16].into() } else { [0; 4].into() };
    let vips: Vec<IpAddr> = of_family(&service.balancers, &BALANCERS, any).collect();
    if vips.is_empty() || ranges.is_empty() || ranges.contains("0.0.0.0/0") {
        return None;
    }
    if ranges.contains("127.0.0.0/8") {
        ranges.extend(vips.iter().map(|ip| format!("{ip}/32")));
    }
    Some(ranges)
}

fn behind(service: &TestService, port: usize, is_v6: bool, slices: &[TestSlice], zone: Option<u8>) -> Behind {
    let endpoints = endpoints(service, port, is_v6, slices);
    let ready = |e: &&(SocketAddr, TestEndpoint)| e.1.ready != Some(false);
    let fallback =
        |e: &&(SocketAddr, TestEndpoint)| e.1.serving != Some(false) && e.1.terminating == Some(true);
    let local = |e: &&(SocketAddr, TestEndpoint)| e.1.node.is_some_and(|n| format!("node-{n}") == NODE);
    let addresses = |list: Vec<&(SocketAddr, TestEndpoint)>| -> BTreeSet<SocketAddr> {
        list.into_iter().map(|e| e.0).collect()
    };

    let all_ready: Vec<_> = endpoints.iter().filter(ready).collect();
    let node_mode = all_ready.iter().all(|e| !e.1.for_nodes.is_empty())
        && all_ready.iter().any(|e| e.1.for_nodes.contains(&0));
    let zone_mode = zone.is_some()
        && all_ready.iter().all(|e| !e.1.for_zones.is_empty())
        && all_ready.iter().any(|e| e.1.for_zones.contains(&zone.unwrap()));
    let passes = |e: &&(SocketAddr, TestEndpoint)| {
        if node_mode {
            e.1.for_nodes.contains(&0)
        } else if zone_mode {
            e.1.for_zones.contains(&zone.unwrap())
        } else {
            true
        }
    };
    let any: IpAddr = if is_v6 { [0; 16].into() } else { [0; 4].into() };
    let reachable_from_outside = service.node_port
        || of_family(&service.balancers, &BALANCERS, any).next().is_some()
        || of_family(&service.externals, &EXTERNALS, any).next().is_some();
    // The field applies to these types, whatever the family.
    let external_local = service.external_local
        && (service.node_port || !service.balancers.is_empty() || !service.externals.is_empty());
    let use_cluster = !service.internal_local || reachable_from_outside;
    let use_local = service.internal_local || (external_local && reachable_from_outside);

    let mut cluster = BTreeSet::new();
    if use_cluster {
        cluster = addresses(endpoints.iter().filter(ready).filter(passes).collect());
        if cluster.is_empty() {
            cluster = addresses(endpoints.iter().filter(fallback).collect());
        }
    }
    let mut here = BTreeSet::new();
    if use_local {
        here = addresses(endpoints.iter().filter(ready).filter(local).collect());
        if here.is_empty() {
            here = addresses(endpoints.iter().filter(fallback).filter(local).collect());
        }
    }
    Behind {
        cluster,
        local: here,
        internal_local: service.internal_local,
        external_local,
        has_endpoints: endpoints.iter().any(|e| ready(&e) || fallback(&e)),
        affinity: service.affinity.unwrap_or(0),
        ranges: ranges(service, is_v6),
        owner: format!("s{}", service.name),
        port: PORTS[port].0.to_string(),
    }
}

/// One entry for each address and port. A copy that does not terminate replaces the known one, but a copy that is not
/// ready does not replace a ready one from another slice.
fn endpoints(
    service: &TestService,
    port: usize,
    is_v6: bool,
    slices: &[TestSlice],
) -> Vec<(SocketAddr, TestEndpoint)> {
    let mut found: Vec<(SocketAddr, TestEndpoint)> = Vec::new();
    let mut slices: Vec<&TestSlice> = slices.iter().collect();
    slices.sort_by_key(|slice| slice.name);
    for slice in slices {
        if slice.service != service.name || slice.is_v6 != is_v6 || slice.headless {
            continue;
        }
        let mut here: Vec<(SocketAddr, TestEndpoint)> = Vec::new();
        for (slice_port, number) in &slice.ports {
            if *slice_port != port || *number == 0 || *number > 65_535 {
                continue;
            }
            for endpoint in &slice.endpoints {
                let address = SocketAddr::new(endpoint.ip(is_v6), *number as u16);
                replace(&mut here, address, endpoint, |_| endpoint.terminating != Some(true));
            }
        }
        for (address, endpoint) in here {
            replace(&mut found, address, &endpoint, |known| {
                let is_good = known.ready != Some(false) && known.terminating != Some(true);
                endpoint.terminating != Some(true) && (endpoint.ready != Some(false) || !is_good)
            });
        }
    }
    found
}

fn replace(
    list: &mut Vec<(SocketAddr, TestEndpoint)>,
    address: SocketAddr,
    endpoint: &TestEndpoint,
    may: impl Fn(&TestEndpoint) -> bool,
) {
    match list.iter().position(|(known, _)| *known == address) {
        None => list.push((address, endpoint.clone())),
        Some(at) if may(&list[at].1) => list[at].1 = endpoint.clone(),
        Some(_) => {}
    }
}
