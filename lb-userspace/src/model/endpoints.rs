//! The endpoints of one service port in all its EndpointSlices.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{Addr, Endpoint, Proto};

use crate::objects::name::Family;
use crate::objects::notice::{Problem, Severity};
use crate::objects::service::Service;
use crate::objects::slice::{Slice, SliceEndpoint, SlicePort};

/// The endpoints of a service port, merged: the controller moves endpoints between slices, so an endpoint may be in two
/// slices. A copy that does not terminate wins. Of two such copies in one slice, the last wins (as in k/k
/// pkg/proxy/endpointslicecache.go). Between slices, which kube-proxy leaves to chance, a ready copy wins, else the one
/// of the last slice by name: an outdated copy must not remove the only endpoint before the update of its slice
/// arrives.
pub(super) fn merged<'a>(
    port: &str,
    proto: Proto,
    family: Family,
    slices: &[&'a Slice],
) -> BTreeMap<Endpoint, &'a SliceEndpoint> {
    let mut merged: BTreeMap<Endpoint, &SliceEndpoint> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.family == Some(family)) {
        for (key, endpoint) in of_slice(port, proto, slice) {
            let wins = |known: &SliceEndpoint| {
                !endpoint.terminating && (known.terminating || endpoint.ready || !known.ready)
            };
            if merged.get(&key).is_none_or(|known| wins(known)) {
                merged.insert(key, endpoint);
            }
        }
    }
    merged
}

/// Substitutes for the endpoints of a port whose name is in no slice: those under names that no port of the Service
/// has. The port was renamed a moment ago, and Service and slices are written one after the other.
pub(super) fn unclaimed<'a>(
    service: &Service,
    port: &str,
    proto: Proto,
    family: Family,
    slices: &[&'a Slice],
) -> BTreeMap<Endpoint, &'a SliceEndpoint> {
    let names = slices.iter().filter(|slice| slice.family == Some(family)).flat_map(|slice| &slice.ports);
    let names: BTreeSet<&str> = names.filter(|p| p.proto == proto).map(|p| &*p.name).collect();
    if names.contains(port) {
        return BTreeMap::new();
    }
    let is_claimed = |name: &str| service.ports.iter().any(|p| *p.name == *name && p.proto == proto);
    let others = names.into_iter().filter(|name| !is_claimed(name));
    others.flat_map(|name| merged(name, proto, family, slices)).collect()
}

fn of_slice<'a>(port: &str, proto: Proto, slice: &'a Slice) -> BTreeMap<Endpoint, &'a SliceEndpoint> {
    let mut endpoints: BTreeMap<Endpoint, &SliceEndpoint> = BTreeMap::new();
    for number in slice.ports.iter().filter(|p| *p.name == *port && p.proto == proto) {
        for endpoint in &slice.endpoints {
            let key = Endpoint::new(endpoint.addr, number.port);
            if !endpoint.terminating || !endpoints.contains_key(&key) {
                endpoints.insert(key, endpoint);
            }
        }
    }
    endpoints
}

/// The number of addresses with a ready endpoint on this node, over all ports of the slices, including ports that the
/// Service does not have (k/k pkg/proxy/endpointschangetracker.go, LocalReadyEndpoints).
pub(super) fn local_ready(slices: &[&Slice], family: Family, node: &str) -> usize {
    let of_family = || slices.iter().filter(|slice| slice.family == Some(family));
    let ports: BTreeSet<(&str, Proto)> =
        of_family().flat_map(|slice| &slice.ports).map(|port| (&*port.name, port.proto)).collect();
    let endpoints = ports.into_iter().flat_map(|(port, proto)| merged(port, proto, family, slices));
    let local = endpoints.filter(|(_, e)| e.ready && e.node.as_deref() == Some(node));
    local.map(|(endpoint, _)| endpoint.addr).collect::<BTreeSet<Addr>>().len()
}

/// Reports the ports of a Service that none of its slices has, if the slices have ports at all: a misspelt name.
pub(super) fn unmatched_ports(service: &Service, slices: &[&Slice]) -> Vec<Problem> {
    let known: Vec<&SlicePort> = slices.iter().flat_map(|slice| &slice.ports).collect();
    if known.is_empty() {
        return Vec::new();
    }
    let unmatched = service
        .ports
        .iter()
        .filter(|port| !known.iter().any(|known| known.name == port.name && known.proto == port.proto));
    unmatched
        .map(|port| {
            let text = format!("no EndpointSlice has a {} port named \"{}\"", port.proto, port.name);
            Problem::new(Severity::Warning, text)
        })
        .collect()
}
