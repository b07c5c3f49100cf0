//! What each frontend ought to lead to, recomputed from all objects. Written from the rules of kube-proxy
//! (pkg/proxy/topology.go, endpointslicecache.go), not from the model: plain lists, no indexes, no increments.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::objects::{NODE, PORTS, TestEndpoint, TestService, TestSlice, VIPS};

pub type Address = (SocketAddr, String);

#[derive(Clone, Debug, PartialEq)]
pub struct Behind {
    pub cluster: BTreeSet<SocketAddr>,
    pub local: BTreeSet<SocketAddr>,
    pub internal_local: bool,
    pub external_local: bool,
    pub has_endpoints: bool,
    pub affinity: u32,
    /// Which Service it is: two with equal sets must not pass for each other.
    pub owner: String,
    pub port: String,
}

pub fn frontends(
    services: &[TestService],
    slices: &[TestSlice],
    zone: Option<u8>,
) -> BTreeMap<Address, Behind> {
    let mut claims: BTreeMap<Address, Vec<(u32, String, Behind)>> = BTreeMap::new();
    for service in services.iter().filter(|service| !service.other_proxy) {
        for vip in &service.vips {
            let ip: IpAddr = VIPS[*vip].parse().unwrap();
            for port in &service.ports {
                let (name, number, protocol) = PORTS[*port];
                let behind = behind(service, *port, ip.is_ipv6(), slices, zone);
                let order =
                    (service.created.unwrap_or(u32::MAX), format!("s{} {name}", service.name), behind);
                let mut claim = |ip, number| {
                    let key = (SocketAddr::new(ip, number), protocol.to_string());
                    claims.entry(key).or_default().push(order.clone());
                };
                claim(ip, number);
                if service.node_port {
                    let any = if ip.is_ipv6() { IpAddr::from([0; 16]) } else { IpAddr::from([0; 4]) };
                    claim(any, 30_000 + *port as u16);
                }
            }
        }
    }
    let first = |mut claims: Vec<(u32, String, Behind)>| {
        claims.sort_by_key(|(created, name, _)| (*created, name.clone()));
        claims.remove(0).2
    };
    claims.into_iter().map(|(address, claims)| (address, first(claims))).collect()
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
    let reachable_from_outside = service.node_port;
    let use_cluster = !service.internal_local || reachable_from_outside;
    let use_local = service.internal_local || (service.external_local && reachable_from_outside);

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
        external_local: service.external_local && service.node_port,
        has_endpoints: endpoints.iter().any(|e| ready(&e) || fallback(&e)),
        affinity: service.affinity.unwrap_or(0),
        owner: format!("s{}", service.name),
        port: PORTS[port].0.to_string(),
    }
}

/// One entry for each address and port. A copy that does not terminate replaces what is there; but not a ready one of
/// another slice, if it is not ready itself.
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
