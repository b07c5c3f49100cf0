//! How a Service is reached: the frontends that it asks for, and those that are ignored.

use std::collections::BTreeSet;

use lb_common::{Addr, FrontendKey, FrontendKind, Port, Prefix};

use super::claims::{Age, Claim, node_port_key};
use super::rules::Rules;
use crate::objects::name::{Family, ServicePortName};
use crate::objects::notice::{Problem, Severity};
use crate::objects::service::{Policy, Service, ServiceKind, ServicePort};

/// Why a Service has no frontend at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved {
    Headless,
    ExternalName,
    /// The label `service.kubernetes.io/service-proxy-name` names another proxy.
    OtherProxy,
    /// The Service has no usable address or no usable port; its problems say more.
    Unusable,
}

impl Service {
    /// Why none of the ports is served; `None` if they are.
    pub fn unserved(&self, rules: &Rules) -> Option<Unserved> {
        if self.proxy_name.as_deref() != rules.service_proxy_name.as_deref() {
            return Some(Unserved::OtherProxy);
        }
        match self.kind {
            ServiceKind::ExternalName => Some(Unserved::ExternalName),
            _ if self.is_headless => Some(Unserved::Headless),
            _ if self.cluster_ips.is_empty() || self.ports.is_empty() => Some(Unserved::Unusable),
            _ => None,
        }
    }

    /// The frontends that the Service asks for, except those that the rules forbid.
    pub(super) fn claims(&self, rules: &Rules) -> Vec<Claim> {
        let age = self.created.map_or(Age::Unknown, Age::Created);
        let mut claims = Vec::new();
        if self.unserved(rules).is_some() {
            return claims;
        }
        for cluster_ip in &self.cluster_ips {
            let family = Family::of(*cluster_ip);
            let vips = self.vips(family).map(|ip| (ip, FrontendKind::LoadBalancer));
            let external = self.allowed_external_ips(family, rules).map(|ip| (ip, FrontendKind::External));
            let addresses: Vec<(Addr, FrontendKind)> =
                std::iter::once((*cluster_ip, FrontendKind::Cluster)).chain(vips).chain(external).collect();
            for port in &self.ports {
                let mut claim = |key, kind| {
                    claims.push(Claim { age, port: self.port_name(port, family), key, kind });
                };
                for (addr, kind) in &addresses {
                    claim(FrontendKey::new(*addr, port.port, port.proto as u8), *kind);
                }
                if port.node_port != Port::default() {
                    claim(node_port_key(family, port.node_port, port.proto as u8), FrontendKind::NodePort);
                }
            }
        }
        claims
    }

    /// Reports the addresses that the rules forbid, and those of families in which the Service has no ClusterIP.
    pub(super) fn ignored(&self, rules: &Rules) -> Vec<Problem> {
        if self.unserved(rules).is_some() {
            return Vec::new();
        }
        let has_family = |addr: &Addr| self.cluster_ips.iter().any(|ip| Family::of(*ip) == Family::of(*addr));
        let forbidden =
            self.external_ips.iter().filter(|ip| !rules.external_ip_cidrs.allows(**ip)).map(|ip| {
                Problem::new(
                    Severity::Warning,
                    format!(
                        "externalIPs: {ip} is not within --external-ip-cidrs {}: ignored",
                        rules.external_ip_cidrs
                    ),
                )
            });
        let vips = self.load_balancer_ips.iter().map(|ip| ("status.loadBalancer.ingress", ip));
        let external = self.external_ips.iter().map(|ip| ("externalIPs", ip));
        let orphans = vips.chain(external).filter(|(_, ip)| !has_family(ip)).map(|(field, ip)| {
            let family = Family::of(*ip);
            Problem::new(
                Severity::Info,
                format!("{field}: {ip} is ignored because there is no {family} ClusterIP"),
            )
        });
        forbidden.chain(orphans).collect()
    }

    /// Whether a port can be reached by more than its ClusterIP in a family (k/k pkg/proxy/serviceport.go,
    /// ExternallyAccessible).
    pub(super) fn is_external(&self, port: &ServicePort, family: Family, rules: &Rules) -> bool {
        port.node_port != Port::default()
            || self.vips(family).next().is_some()
            || self.allowed_external_ips(family, rules).next().is_some()
    }

    /// The clients that may use the load balancer addresses of a family; all clients if empty. A range that contains
    /// every address lifts the restriction (k/k pkg/proxy/serviceport.go).
    pub fn source_ranges(&self, family: Family) -> BTreeSet<Prefix> {
        let ranges: BTreeSet<Prefix> =
            self.ranges(family).map(|range| Prefix::new(range.addr(), range.prefix_len())).collect();
        if self.ranges(family).any(|range| range.prefix_len() == 0) { BTreeSet::new() } else { ranges }
    }

    /// [`Service::source_ranges`], completed. If the node's address is allowed, its load balancer addresses are allowed
    /// too, because a node that owns such an address uses it as its source (k/k pkg/proxy/nftables/proxier.go).
    pub(super) fn admitted(&self, family: Family, node_ip: Addr) -> BTreeSet<Prefix> {
        let mut admitted = self.source_ranges(family);
        if self.vips(family).next().is_none() {
            admitted.clear();
        }
        if admitted.iter().any(|range| range.contains(node_ip)) {
            admitted.extend(self.vips(family).map(Prefix::host));
        }
        admitted
    }

    pub(super) fn port_name(&self, port: &ServicePort, family: Family) -> ServicePortName {
        ServicePortName {
            namespace: self.name.namespace.clone(),
            name: self.name.name.clone(),
            port: port.name.clone(),
            proto: port.proto,
            family,
        }
    }

    fn allowed_external_ips(&self, family: Family, rules: &Rules) -> impl Iterator<Item = Addr> {
        let allowed = move |ip: &Addr| Family::of(*ip) == family && rules.external_ip_cidrs.allows(*ip);
        self.external_ips.iter().copied().filter(allowed)
    }

    /// The families in which load balancers ask each node for its local endpoints (k/k pkg/api/v1/service/util.go,
    /// NeedsHealthCheck): those of the ClusterIPs, or none.
    pub(super) fn health_check_families(&self) -> impl Iterator<Item = Family> {
        let asks = self.kind == ServiceKind::LoadBalancer
            && self.external_policy == Policy::Local
            && self.health_check_node_port != Port::default()
            && !self.ports.is_empty();
        self.cluster_ips.iter().filter(move |_| asks).map(|ip| Family::of(*ip))
    }
}
