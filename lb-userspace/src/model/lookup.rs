//! What the packet path is to do with the first packet of a connection, according to the model.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_common::{Addr, Endpoint, FrontendKey, FrontendKind, Port, Proto};

use super::Model;
use super::claims::{Claim, node_port_key};
use super::node_ports::NodePortAddresses;
use crate::desired::DesiredPort;
use crate::desired::outcome::{Client, Outcome};
use crate::objects::name::{Family, ServicePortName};

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub client: Client,
    pub source: Addr,
    pub destination: Addr,
    pub port: Port,
    pub proto: Proto,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// No Service is concerned: the packet passes unchanged.
    Nothing,
    /// One of these endpoints receives the packet.
    Endpoints {
        port: ServicePortName,
        set: BTreeSet<Endpoint>,
    },
    Reject,
    Drop,
}

impl Model {
    /// Decides a packet from the objects alone.
    pub fn lookup(&self, packet: &Packet) -> Lookup {
        let Some(claim) = self.frontend(packet) else { return self.without_frontend(packet) };
        let Some(port) = self.decide(&claim.port.service()).ports.remove(&claim.port) else {
            return Lookup::Nothing;
        };
        // First of all, even before the test for a Service without endpoints.
        if claim.kind == FrontendKind::LoadBalancer && !is_admitted(&port, packet.source) {
            return Lookup::Drop;
        }
        let mut set = match Outcome::of(&port, claim.kind, packet.client) {
            Outcome::Cluster => port.cluster,
            Outcome::Local => port.local,
            Outcome::Reject => return Lookup::Reject,
            Outcome::Drop => return Lookup::Drop,
        };
        if packet.proto == Proto::Sctp {
            // The checksum of SCTP covers the ports, so they are not translated.
            set.retain(|endpoint| endpoint.port == packet.port);
            if set.is_empty() {
                return Lookup::Drop;
            }
        }
        Lookup::Endpoints { port: claim.port.clone(), set }
    }

    /// If the node itself has an address of a Service, the Service takes precedence over a NodePort.
    fn frontend(&self, packet: &Packet) -> Option<&Claim> {
        let proto = packet.proto as u8;
        let exact = self.claims.winner(&FrontendKey::new(packet.destination, packet.port, proto));
        exact.or_else(|| {
            let family = Family::of(packet.destination);
            let is_loopback = IpAddr::from(packet.destination).is_loopback();
            // Of all clients, only processes of the node can send to its loopback addresses.
            let stands_for = match (is_loopback, packet.client) {
                (true, Client::Host) => NodePortAddresses::loopback(family),
                (true, _) => return None,
                (false, _) => packet.destination,
            };
            let is_ours = self.node_port_addresses().is_some_and(|ours| ours.contains(&stands_for));
            self.claims.winner(&node_port_key(family, packet.port, proto)).filter(|_| is_ours)
        })
    }

    /// As kube-proxy in nftables mode. In its iptables mode such packets leave the node by the default route.
    fn without_frontend(&self, packet: &Packet) -> Lookup {
        let addr = packet.destination;
        if self.claims.is_cluster_ip(addr) {
            return Lookup::Reject;
        }
        let ranges = self.service_ranges();
        let is_unallocated =
            ranges.cidrs.iter().any(|range| range.contains(addr)) && !ranges.others.contains(&addr);
        if is_unallocated { Lookup::Drop } else { Lookup::Nothing }
    }
}

fn is_admitted(port: &DesiredPort, source: Addr) -> bool {
    port.source_ranges.is_empty() || port.source_ranges.iter().any(|range| range.contains(source))
}
