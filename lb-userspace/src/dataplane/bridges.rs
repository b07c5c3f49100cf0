//! The tables about bridges, which the source check needs.

use std::collections::BTreeMap;

use anyhow::Context;
use aya::maps::{HashMap, Map, MapData};
use lb_common::{Addr, BridgeHost, names};

use super::absent_is_fine;
use super::pins::Pins;
use crate::node::netdev::{Facts, Station};

/// The maps `bridge_ports` and `bridge_hosts`.
pub struct Bridges {
    ports: HashMap<MapData, u32, u32>,
    hosts: HashMap<MapData, Addr, BridgeHost>,
    /// What is in `ports`: the bridge of each port, and of each VLAN on a bridge, by interface index.
    known: BTreeMap<u32, u32>,
    /// Hosts whose port was that of the bridge at the last look. A bridge that lets hosts send with the MAC addresses of
    /// others believes the last frame; the packet path does not.
    confirmed: BTreeMap<Addr, BridgeHost>,
}

impl Bridges {
    /// Opens the pinned maps.
    ///
    /// # Errors
    /// If a map cannot be opened or read.
    pub fn open(pins: &Pins) -> anyhow::Result<Self> {
        let open = |name| MapData::from_pin(pins.tables().map(name)).with_context(|| format!("open {name}"));
        let ports: HashMap<MapData, u32, u32> = Map::HashMap(open(names::BRIDGE_PORTS)?).try_into()?;
        let hosts = Map::LruHashMap(open(names::BRIDGE_HOSTS)?).try_into()?;
        let known = ports.iter().collect::<Result<_, _>>()?;
        Ok(Self { ports, hosts, known, confirmed: BTreeMap::new() })
    }

    /// Writes which links are ports of which bridge, where that has changed.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn update(&mut self, links: &[Facts]) -> anyhow::Result<()> {
        let bridges: Vec<u32> = links.iter().filter_map(Facts::bridge).collect();
        let is_bridge = |on: &u32| bridges.contains(on);
        let of = |link: &Facts| link.bridge().or(link.on.filter(|on| link.kind == "vlan" && is_bridge(on)));
        let wanted: BTreeMap<u32, u32> =
            links.iter().filter_map(|link| Some((link.index, of(link)?))).collect();
        for (port, bridge) in &wanted {
            if self.known.get(port) != Some(bridge) {
                self.ports
                    .insert(port, bridge, 0)
                    .with_context(|| format!("note the bridge of link {port}"))?;
                self.known.insert(*port, *bridge);
            }
        }
        let gone: Vec<u32> = self.known.keys().filter(|port| !wanted.contains_key(port)).copied().collect();
        for port in gone {
            absent_is_fine(self.ports.remove(&port))
                .with_context(|| format!("forget the bridge of link {port}"))?;
            self.known.remove(&port);
        }
        Ok(())
    }

    /// Whether any link is a port of a bridge.
    pub fn have_ports(&self) -> bool {
        !self.known.is_empty()
    }

    /// Corrects where hosts are, by what the bridges themselves have learned: the packet path believes a frame that the
    /// bridge may drop afterwards. Returns the hosts that were corrected.
    ///
    /// # Errors
    /// If a map cannot be read or written.
    pub fn correct(&mut self, stations: &[Station]) -> anyhow::Result<Vec<Addr>> {
        let mut learned = BTreeMap::new();
        for station in stations {
            let port = learned.entry((station.bridge, station.mac)).or_insert(Some(station.port));
            // One host may be at several ports, in several VLANs.
            *port = port.filter(|port| *port == station.port);
        }
        let mut confirmed = BTreeMap::new();
        let mut wrong = Vec::new();
        for entry in self.hosts.iter() {
            let (addr, host) = entry?;
            let learned = self.known.get(&host.port).and_then(|bridge| learned.get(&(*bridge, host.mac)));
            let Some(Some(port)) = learned else { continue };
            let is_known = self.confirmed.get(&addr) == Some(&host);
            let right = BridgeHost { port: if is_known { host.port } else { *port }, ..host };
            if right != host {
                wrong.push((addr, right));
            }
            confirmed.insert(addr, right);
        }
        self.confirmed = confirmed;
        for (addr, host) in &wrong {
            self.hosts.insert(addr, host, 0)?;
        }
        Ok(wrong.into_iter().map(|(addr, _)| addr).collect())
    }
}
