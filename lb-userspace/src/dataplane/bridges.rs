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

    /// Whether any host was seen on a bridge.
    pub fn have_hosts(&self) -> bool {
        !self.known.is_empty() && self.hosts.keys().next().is_some()
    }

    /// Corrects where hosts are, by what the bridges themselves have learned: the packet path believes a frame that the
    /// bridge may drop afterwards. Returns the hosts that were corrected.
    ///
    /// # Errors
    /// If a map cannot be read or written.
    pub fn correct(&mut self, stations: &[Station]) -> anyhow::Result<Vec<Addr>> {
        let hosts: BTreeMap<Addr, BridgeHost> = self.hosts.iter().collect::<Result<_, _>>()?;
        let right = right_places(&hosts, &self.known, stations, &self.confirmed);
        let wrong: Vec<Addr> = right
            .iter()
            .filter(|(addr, host)| hosts.get(addr) != Some(host))
            .map(|(addr, _)| *addr)
            .collect();
        for addr in &wrong {
            self.hosts.insert(addr, right[addr], 0)?;
        }
        self.confirmed = right;
        Ok(wrong)
    }
}

/// The hosts whose port is beyond doubt: that of the last look, else the only port where their bridge has learned them.
fn right_places(
    hosts: &BTreeMap<Addr, BridgeHost>,
    ports: &BTreeMap<u32, u32>,
    stations: &[Station],
    confirmed: &BTreeMap<Addr, BridgeHost>,
) -> BTreeMap<Addr, BridgeHost> {
    let mut learned = BTreeMap::new();
    for station in stations {
        let port = learned.entry((station.bridge, station.mac)).or_insert(Some(station.port));
        // One host may be at several ports, in several VLANs.
        *port = port.filter(|port| *port == station.port);
    }
    let place = |(addr, host): (&Addr, &BridgeHost)| {
        let bridge = ports.get(&host.port)?;
        if confirmed.get(addr) == Some(host) {
            return Some((*addr, *host));
        }
        let port = (*learned.get(&(*bridge, host.mac))?)?;
        Some((*addr, BridgeHost { port, ..*host }))
    };
    hosts.iter().filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: u32 = 3;
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn addr() -> Addr {
        Addr::from_v4_word(7)
    }

    fn host(port: u32) -> BTreeMap<Addr, BridgeHost> {
        [(addr(), BridgeHost { port, mac: MAC, pad: 0 })].into()
    }

    fn learned(ports: &[u32]) -> Vec<Station> {
        ports.iter().map(|port| Station { bridge: BRIDGE, port: *port, mac: MAC }).collect()
    }

    fn right(at: u32, learned_at: &[u32], confirmed: &BTreeMap<Addr, BridgeHost>) -> Option<u32> {
        let ports = [(10, BRIDGE), (11, BRIDGE)].into();
        right_places(&host(at), &ports, &learned(learned_at), confirmed).get(&addr()).map(|host| host.port)
    }

    #[test]
    fn the_bridge_knows_where_a_new_host_is() {
        let none = BTreeMap::new();
        assert_eq!(right(10, &[10], &none), Some(10));
        assert_eq!(right(11, &[10], &none), Some(10), "whoever came first");
        assert_eq!(right(10, &[], &none), None, "nobody knows");
    }

    #[test]
    fn a_host_that_was_found_at_its_port_stays_there() {
        // The bridge has learned the MAC address from a frame of another port.
        assert_eq!(right(10, &[11], &host(10)), Some(10));
        // The packet path has found the host elsewhere since.
        assert_eq!(right(11, &[11], &host(10)), Some(11));
    }

    #[test]
    fn a_host_at_several_ports_or_at_a_port_that_is_gone_is_left_alone() {
        assert_eq!(right(10, &[10, 11], &BTreeMap::new()), None);
        assert_eq!(right(12, &[10], &BTreeMap::new()), None);
    }
}
