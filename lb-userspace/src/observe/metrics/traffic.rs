//! The counters of the packet path, read from the maps at each scrape.

use std::sync::{Mutex, PoisonError};

use lb_common::{Counter, Traffic as Counts, capacity, names};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};

use crate::dataplane::maps::Maps;
use crate::dataplane::shape::Sizes;
use crate::dataplane::sweep::Flows;
use crate::objects::name::ServicePortName;
use crate::objects::wire::authority;

const SERVICE: [&str; 5] = ["namespace", "service", "port", "protocol", "ip_family"];
const BACKEND: [&str; 6] = ["namespace", "service", "port", "protocol", "ip_family", "backend"];

/// Collects the traffic of service ports and backends, the reasons, and how full the maps are.
pub struct Traffic {
    maps: Mutex<Maps>,
    /// The number of service ports, and of backends, that may have series of their own.
    limit: usize,
    descs: Vec<Desc>,
}

/// The values of one scrape.
#[derive(Debug, Default)]
pub struct Counted {
    /// Ordered by id; at most as many as the limit.
    pub services: Vec<(ServicePortName, Counts)>,
    /// Ordered by id; at most as many as the limit. The address is `address:port`.
    pub backends: Vec<(ServicePortName, String, Counts)>,
    /// Service ports and backends beyond the limit.
    pub left_out: [usize; 2],
    pub reasons: Vec<(Counter, u64)>,
    /// The size of the flow table.
    pub sizes: Sizes,
}

impl Traffic {
    /// `maps` are used by this collector alone. `limit` bounds the service ports, and the backends, that have series:
    /// those with the lowest ids, which keep their ids while they exist.
    ///
    /// # Errors
    /// If a name is not valid, which cannot happen, because all names are constants.
    pub fn new(maps: Maps, limit: usize) -> prometheus::Result<Self> {
        let families = Families::new()?;
        let descs = families.all().into_iter().flat_map(Collector::desc).cloned().collect();
        Ok(Self { maps: Mutex::new(maps), limit, descs })
    }

    fn read(&self) -> anyhow::Result<Counted> {
        let maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = std::collections::BTreeMap::new();
        for entry in maps.names.iter() {
            let (id, name) = entry?;
            names.extend(ServicePortName::from_table(&name).map(|name| (id, name)));
        }
        let mut counted = Counted::default();
        for (id, name) in names.iter().take(self.limit) {
            counted.services.push((name.clone(), maps.service_traffic(*id)?));
        }
        counted.sizes = maps.sizes()?;
        counted.left_out[0] = names.len().saturating_sub(self.limit);
        for id in 0..maps.backends.entries() {
            let backend = maps.backends.get(id);
            if backend.is_free() {
                continue;
            }
            let Some(name) = names.get(&backend.service) else { continue };
            if counted.backends.len() == self.limit {
                counted.left_out[1] += 1;
                continue;
            }
            let address = authority(backend.addr, backend.port);
            counted.backends.push((name.clone(), address, maps.backend_traffic(id)?));
        }
        for counter in Counter::ALL {
            counted.reasons.push((counter, maps.counter(counter)?));
        }
        Ok(counted)
    }
}

impl Collector for Traffic {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        match self.read() {
            Ok(counted) => families(&counted).unwrap_or_default(),
            Err(error) => {
                tracing::warn!("cannot read the metrics of the data path: {error:#}");
                Vec::new()
            }
        }
    }
}

/// Converts the values to metrics.
///
/// # Errors
/// If a name is not valid, which cannot happen, because all names are constants.
pub fn families(counted: &Counted) -> prometheus::Result<Vec<MetricFamily>> {
    let families = Families::new()?;
    for (name, counts) in &counted.services {
        let (protocol, family) = (name.proto.to_string(), name.family.to_string());
        families.service.add(&[&name.namespace, &name.name, &name.port, &protocol, &family], counts);
    }
    for (name, address, counts) in &counted.backends {
        let (protocol, family) = (name.proto.to_string(), name.family.to_string());
        families.backend.add(&[&name.namespace, &name.name, &name.port, &protocol, &family, address], counts);
    }
    for (of, count) in ["service", "backend"].into_iter().zip(counted.left_out) {
        families.left_out.with_label_values(&[of]).set(gauge(count));
    }
    for (reason, count) in &counted.reasons {
        let family = if reason.is_drop() { &families.drops } else { &families.events };
        family.with_label_values(&[reason.name()]).inc_by(*count);
    }
    for (map, entries) in [
        (names::FRONTENDS, capacity::FRONTENDS),
        (names::SERVICES, capacity::SERVICES),
        (names::SLOTS, capacity::SLOTS),
        (names::BACKENDS, capacity::BACKENDS),
        (names::FLOWS, counted.sizes.flows as usize),
    ] {
        families.capacity.with_label_values(&[map]).set(gauge(entries));
    }
    for (kind, _, room) in Flows::default().fills(counted.sizes) {
        families.capacity.with_label_values(&[kind]).set(gauge(room));
    }
    Ok(families.all().into_iter().flat_map(Collector::collect).collect())
}

struct Families {
    service: PerTraffic,
    backend: PerTraffic,
    left_out: IntGaugeVec,
    drops: IntCounterVec,
    events: IntCounterVec,
    capacity: IntGaugeVec,
}

/// The metrics of one [`Counts`].
struct PerTraffic {
    connections: IntCounterVec,
    packets: IntCounterVec,
    bytes: IntCounterVec,
}

impl PerTraffic {
    fn new(of: &str, what: &str, labels: &[&str]) -> prometheus::Result<Self> {
        let directed: Vec<&str> = labels.iter().copied().chain(["direction"]).collect();
        let counter = |name: &str, help: String, labels: &[&str]| {
            IntCounterVec::new(Opts::new(format!("lb_{of}_{name}_total"), help), labels)
        };
        let directions = "from clients (request) and to them (reply)";
        Ok(Self {
            connections: counter(
                "connections",
                format!("New flows to {what}, including sockets of the host"),
                labels,
            )?,
            packets: counter("packets", format!("Packets through {what}, {directions}"), &directed)?,
            bytes: counter("bytes", format!("Bytes of frames through {what}, {directions}"), &directed)?,
        })
    }

    fn all(&self) -> [&dyn Collector; 3] {
        [&self.connections, &self.packets, &self.bytes]
    }

    fn add(&self, labels: &[&str], counts: &Counts) {
        self.connections.with_label_values(labels).inc_by(counts.connections);
        for (direction, packets, bytes) in
            [("request", counts.packets, counts.bytes), ("reply", counts.reply_packets, counts.reply_bytes)]
        {
            let labels: Vec<&str> = labels.iter().copied().chain([direction]).collect();
            self.packets.with_label_values(&labels).inc_by(packets);
            self.bytes.with_label_values(&labels).inc_by(bytes);
        }
    }
}

impl Families {
    fn new() -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| IntCounterVec::new(Opts::new(name, help), &["reason"]);
        let gauge = |name: &str, help: &str, label: &str| IntGaugeVec::new(Opts::new(name, help), &[label]);
        Ok(Self {
            service: PerTraffic::new("service", "a service port", &SERVICE)?,
            backend: PerTraffic::new("backend", "a backend", &BACKEND)?,
            left_out: gauge(
                "lb_series_left_out",
                "Service ports and backends without series, because of --metrics-limit",
                "of",
            )?,
            drops: counter(
                "lb_drops_total",
                "Dropped packets, and connections of the host's processes that a rule drops, by the reason that `lb status` \
                 shows",
            )?,
            events: counter(
                "lb_packet_events_total",
                "Other counts of packets, flows and sockets of the host, by the reason that `lb status` shows",
            )?,
            capacity: gauge("lb_map_capacity", "Entries that a map can hold", "map")?,
        })
    }

    fn all(&self) -> Vec<&dyn Collector> {
        let mut all = self.service.all().to_vec();
        all.extend(self.backend.all());
        all.extend([&self.left_out, &self.capacity].map(|vec| vec as &dyn Collector));
        all.extend([&self.drops, &self.events].map(|vec| vec as &dyn Collector));
        all
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
