//! What becomes of the first packet of a connection, as the model has it: what the packet path is to do.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_common::{Addr, Endpoint, FrontendKey, FrontendKind, Port, Proto};

use super::Model;
use super::claims::{Claim, node_port_key};
use super::node_ports::NodePortAddresses;
use crate::desired::DesiredPort;
use crate::desired::outcome::{Client, Outcome};
use crate::objects::name::{Family, ServicePortName};

/// Where it comes from and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub client: Client,
    pub source: Addr,
    pub destination: Addr,
    pub port: Port,
    pub proto: Proto,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// No Service has to do with it: left alone.
    Nothing,
    /// One of these takes it.
    Endpoints {
        port: ServicePortName,
        set: BTreeSet<Endpoint>,
    },
    Reject,
    Drop,
}

impl Model {
    pub fn lookup(&self, packet: &Packet) -> Lookup {
        let Some(claim) = self.frontend(packet) else { return self.without_frontend(packet) };
        let Some(port) = self.decide(&claim.port.service()).ports.remove(&claim.port) else {
            return Lookup::Nothing;
        };
        // Before anything else, also before a Service without endpoints is told from others.
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
            // Ports are part of what its checksum covers, and are not translated.
            set.retain(|endpoint| endpoint.port == packet.port);
            if set.is_empty() {
                return Lookup::Drop;
            }
        }
        Lookup::Endpoints { port: claim.port.clone(), set }
    }

    /// An address of a Service comes before a NodePort, where the node has that address itself.
    fn frontend(&self, packet: &Packet) -> Option<&Claim> {
        let proto = packet.proto as u8;
        let exact = self.claims.winner(&FrontendKey::new(packet.destination, packet.port, proto));
        exact.or_else(|| {
            let family = Family::of(packet.destination);
            let is_loopback = IpAddr::from(packet.destination).is_loopback();
            // Of all clients, only a process of the node has a loopback address to talk to.
            let stands_for = match (is_loopback, packet.client) {
                (true, Client::Host) => NodePortAddresses::loopback(family),
                (true, _) => return None,
                (false, _) => packet.destination,
            };
            let is_ours = self.node_port_addresses().is_some_and(|ours| ours.contains(&stands_for));
            self.claims.winner(&node_port_key(family, packet.port, proto)).filter(|_| is_ours)
        })
    }

    /// kube-proxy in nftables mode decides so, in iptables mode such packets leave the node by the default route.
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
