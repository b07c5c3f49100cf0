//! Sends packets through the packet path and compares the outcome with the model.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail, ensure};
use lb_common::{Endpoint, FrontendKind, Port, Proto};
use lb_tests::datapath::{CONTINUE, DROP, Datapath, REDIRECT};
use lb_tests::packet::{Packet, Tcp, Transport, sctp, tcp, udp};
use lb_userspace::desired::outcome::Client;
use lb_userspace::desired::{Desired, ServiceRanges};
use lb_userspace::model::lookup::{self, Lookup};
use lb_userspace::objects::name::ServicePortName;

use crate::world::Pure;

/// New connections for each question if there is a choice. The chance that a fair choice leaves out one of two
/// endpoints is 2^-63, one of three 2e-11.
const CONNECTIONS: u16 = 64;
/// New connections for each question if there is no choice.
const FEW: u16 = 3;
const PROTOS: [Proto; 3] = [Proto::Tcp, Proto::Udp, Proto::Sctp];

/// The outcome of a pod's first packets.
#[derive(Debug, PartialEq, Eq)]
enum Met {
    Endpoints(BTreeSet<SocketAddr>),
    Nothing,
    Reject,
    Drop,
}

thread_local! {
    /// Programs and maps that another world of the same test has left, without a Service: loading them takes most of
    /// the time.
    static LEFT: RefCell<Option<(Datapath, u16)>> = const { RefCell::new(None) };
}

/// Tables that hold what a model desires, and the addresses that questions were asked of.
pub struct Packets {
    pub model: Pure,
    path: Option<Datapath>,
    /// Addresses at which a Service was reached at some time.
    destinations: BTreeSet<SocketAddr>,
    sources: BTreeSet<IpAddr>,
    node_addresses: BTreeSet<IpAddr>,
    /// Service ports with session affinity.
    sticky: BTreeSet<ServicePortName>,
    /// The client port of the last connection; each connection has its own.
    port: u16,
}

impl Packets {
    pub fn new(model: Pure) -> Result<Self> {
        let sources = ["10.244.1.9".parse()?, "fd00:10:244:1::9".parse()?].into();
        let left = LEFT.with(RefCell::take);
        let (path, port) = left.map_or_else(|| Ok((Datapath::new()?, 1_024)), anyhow::Ok)?;
        Ok(Self {
            model,
            path: Some(path),
            destinations: BTreeSet::new(),
            sources,
            node_addresses: BTreeSet::new(),
            sticky: BTreeSet::new(),
            port,
        })
    }

    fn path(&mut self) -> &mut Datapath {
        self.path.as_mut().expect("the path is taken only on drop")
    }

    /// Writes what the model desires into the tables.
    fn write(&mut self) -> Result<()> {
        let desired = self.model.desired();
        if let Some(addresses) = &desired.node_addresses {
            self.node_addresses.extend(addresses.iter().map(|addr| IpAddr::from(*addr)));
        }
        for (name, port) in &desired.services {
            self.sticky.remove(name);
            let Some(port) = port else { continue };
            if port.affinity_timeout != 0 {
                self.sticky.insert(name.clone());
            }
            for (key, kind) in &port.frontends {
                let addr = IpAddr::from(key.addr);
                let number = key.port.host();
                if *kind == FrontendKind::NodePort {
                    let ours = self.node_addresses.iter().filter(|ip| ip.is_ipv4() == addr.is_ipv4());
                    self.destinations.extend(ours.map(|ip| SocketAddr::new(*ip, number)));
                } else {
                    self.destinations.insert(SocketAddr::new(addr, number));
                    // Most likely no Service has this port.
                    self.destinations.insert(SocketAddr::new(addr, number ^ 1));
                }
            }
            // A pod that is an endpoint is also a client.
            self.sources.extend(port.backends.keys().take(2).map(|backend| IpAddr::from(backend.addr)));
        }
        self.path().desire(desired)
    }

    /// Asks from every source to every destination.
    pub fn ask_all(&mut self) -> Result<()> {
        self.write()?;
        for destination in self.destinations.clone() {
            self.ask(destination)?;
        }
        Ok(())
    }

    /// Asks from all pods to one address.
    pub fn ask_to(&mut self, destination: &str) -> Result<()> {
        self.write()?;
        self.ask(destination.parse()?)
    }

    /// Asks from one address if it belongs to a pod: processes of the node and clients elsewhere do not use this
    /// path.
    pub fn ask_from(&mut self, client: Client, source: &str, destination: &str) -> Result<()> {
        self.write()?;
        if client != Client::Pod {
            return Ok(());
        }
        let (source, destination) = (source.parse()?, destination.parse()?);
        PROTOS.into_iter().try_for_each(|proto| self.compare(source, destination, proto))
    }

    fn ask(&mut self, destination: SocketAddr) -> Result<()> {
        for source in self.sources.clone() {
            if source.is_ipv4() == destination.is_ipv4() {
                PROTOS.into_iter().try_for_each(|proto| self.compare(source, destination, proto))?;
            }
        }
        Ok(())
    }

    fn compare(&mut self, source: IpAddr, destination: SocketAddr, proto: Proto) -> Result<()> {
        let question = lookup::Packet {
            client: Client::Pod,
            source: source.into(),
            destination: destination.ip().into(),
            port: Port::new(destination.port()),
            proto,
        };
        let expected = self.model.model.lookup(&question);
        let is_choice = matches!(&expected, Lookup::Endpoints { set, .. } if set.len() > 1);
        let connections = if is_choice { CONNECTIONS } else { FEW };
        let met = self.send(source, destination, proto, connections)?;
        let agree = match (&expected, &met) {
            (Lookup::Endpoints { port, set }, Met::Endpoints(met)) => {
                let set: BTreeSet<SocketAddr> = set.iter().map(socket).collect();
                if self.sticky.contains(port) { met.len() == 1 && met.is_subset(&set) } else { *met == set }
            }
            (Lookup::Nothing, met) => *met == Met::Nothing,
            // No reply can be made for SCTP.
            (Lookup::Reject, met) if proto == Proto::Sctp => *met == Met::Drop,
            (Lookup::Reject, met) => *met == Met::Reject,
            (Lookup::Drop, met) => *met == Met::Drop,
            _ => false,
        };
        ensure!(agree, "{proto} {source} > {destination}: packets met {met:?}, the model says {expected:?}");
        Ok(())
    }

    fn send(
        &mut self,
        source: IpAddr,
        destination: SocketAddr,
        proto: Proto,
        connections: u16,
    ) -> Result<Met> {
        let mut endpoints = BTreeSet::new();
        let mut others = Vec::new();
        for _ in 0..connections {
            self.port += 1;
            let from = SocketAddr::new(source, self.port);
            let sent = match proto {
                Proto::Udp => udp(from, destination).payload("x"),
                Proto::Sctp => sctp(from, destination).payload("x"),
                Proto::Tcp => tcp(from, destination).syn(),
            };
            match self.meet(&sent)? {
                Met::Endpoints(met) => endpoints.extend(met),
                other => others.push(other),
            }
        }
        match others.pop() {
            None => Ok(Met::Endpoints(endpoints)),
            Some(other) if endpoints.is_empty() && others.iter().all(|one| *one == other) => Ok(other),
            Some(other) => bail!("{proto} {source} > {destination}: {endpoints:?}, {other:?} and {others:?}"),
        }
    }

    fn meet(&mut self, sent: &Packet) -> Result<Met> {
        let outcome = self.path().from_pod(sent)?;
        let came = outcome.packet()?;
        Ok(match outcome.verdict {
            DROP => Met::Drop,
            CONTINUE if came == *sent => Met::Nothing,
            CONTINUE => Met::Endpoints([came.to()].into()),
            REDIRECT if is_refusal(&came) => Met::Reject,
            REDIRECT => Met::Endpoints([came.to()].into()),
            verdict => bail!("verdict {verdict}: {came}"),
        })
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        let Some(mut path) = self.path.take() else { return };
        let nothing = Desired {
            complete: true,
            node_addresses: Some(BTreeSet::new()),
            service_ranges: Some(ServiceRanges::default()),
            ..Desired::default()
        };
        // Ports must not wrap around to known flows.
        if self.port < u16::MAX / 2 && path.desire(nothing).is_ok() {
            LEFT.with(|left| left.replace(Some((path, self.port))));
        }
    }
}

fn is_refusal(packet: &Packet) -> bool {
    match &packet.transport {
        Transport::Tcp(tcp) => tcp.flags & Tcp::RST != 0,
        Transport::Icmp(_) => true,
        _ => false,
    }
}

fn socket(endpoint: &Endpoint) -> SocketAddr {
    SocketAddr::new(endpoint.addr.into(), endpoint.port.host())
}
