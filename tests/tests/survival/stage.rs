//! A world with Services in it, the load on them, and what their tables say.

use anyhow::{Context, Result};
use lb_common::Proto;
use lb_tests::echo::Echo;
use lb_tests::load::{Report, Requests, Running};
use lb_tests::world::{Agent, Endpoint, Family, Layout, Service, World};
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::dataplane::pins::Pins;
use lb_userspace::tables::Tables;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

/// Where pods serve, TCP and UDP.
pub const TARGET: u16 = 8_080;
/// Where nobody serves.
pub const CLOSED: u16 = 9_999;

/// The last byte of the addresses of two Services that every stage has.
pub const WEB: u8 = 10;
pub const SHOP: u8 = 20;

/// Servers on each backend pod, and manifests of two Services with all of them. No agent yet.
pub struct Stage {
    pub echoes: Vec<Echo>,
    pub world: World,
}

/// A Service of both families: TCP 80 and UDP 53.
pub fn service(name: &str, host: u8) -> Service {
    Service::new(name).vips(host).tcp(80, TARGET).udp(53, TARGET)
}

/// The address of a Service's port: TCP 80 or UDP 53.
pub fn vip(host: u8, family: Family, proto: Proto) -> SocketAddr {
    let port = if proto == Proto::Tcp { 80 } else { 53 };
    match family {
        Family::V4 => SocketAddr::from(([10, 96, 0, host], port)),
        Family::V6 => format!("[fd00:10:96::{host}]:{port}").parse().expect("an address"),
    }
}

impl Stage {
    pub fn new(layout: Layout) -> Result<Self> {
        let world = World::new(layout)?;
        let echoes = world
            .backends()
            .iter()
            .map(|pod| Echo::start(&pod.netns, &pod.name, &[TARGET]))
            .collect::<Result<_>>()?;
        let stage = Self { echoes, world };
        for (name, host) in [("web", WEB), ("shop", SHOP)] {
            stage.write(&service(name, host), stage.world.backends())?;
        }
        Ok(stage)
    }

    /// Writes the manifest of a Service with these endpoints.
    pub fn write<E: Into<Endpoint>>(
        &self,
        service: &Service,
        endpoints: impl IntoIterator<Item = E>,
    ) -> Result<()> {
        self.world.manifests().write(&service.clone().endpoints(endpoints))
    }

    /// New connections and datagrams to a Service, both families, each so many a second.
    pub fn load(&self, host: u8, rate: u32) -> Load {
        let start = |family, proto| {
            let requests = Requests::new(proto, vip(host, family, proto)).rate(rate).workers(2);
            requests.during(Duration::from_secs(300)).start(&self.world.client().netns)
        };
        let all = Family::ALL.into_iter().flat_map(|family| [(family, Proto::Tcp), (family, Proto::Udp)]);
        Load { running: all.map(|(family, proto)| start(family, proto)).collect() }
    }

    /// A few requests to a Service, both families and protocols.
    pub fn ask(&self, host: u8) -> Report {
        let mut whole = Report::default();
        for family in Family::ALL {
            for proto in [Proto::Tcp, Proto::Udp] {
                let requests = Requests::new(proto, vip(host, family, proto)).count(5).workers(1);
                whole.merge(requests.timeout(Duration::from_secs(2)).run(&self.world.client().netns));
            }
        }
        whole
    }

    /// The pinned maps, for reading.
    pub fn maps(&self) -> Result<Maps> {
        Maps::open(&Pins::new(&self.world.folder().pins()), false)
    }

    /// All tables but those of flows, ids and generations included.
    pub fn tables(&self) -> Result<Tables> {
        lb_userspace::dataplane::read(&self.maps()?)
    }

    /// `lb <command> -o json`.
    pub fn json(&self, command: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.world.lb(&[command, "-o", "json"])?)?)
    }

    /// Used entries of a table, as `lb status` says.
    pub fn used(&self, table: &str) -> Result<u64> {
        let status = self.json("status")?;
        let fills = status["tables"].as_array().context("tables of lb status")?;
        let fill = fills.iter().find(|fill| fill["name"] == table).with_context(|| table.to_string())?;
        fill["used"].as_u64().context("used")
    }

    /// A counter, as `lb status` says.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let status = self.json("status")?;
        let counters = status["counters"].as_array().context("counters of lb status")?;
        let counter = counters.iter().find(|counter| counter["name"] == name);
        Ok(counter.and_then(|counter| counter["value"].as_u64()).unwrap_or(0))
    }

    /// Addresses of the endpoints that a Service port of the IPv4 family has in its Cluster set.
    pub fn endpoints(&self, name: &str) -> Result<Vec<String>> {
        let services = self.json("services")?;
        let entry =
            services.as_array().into_iter().flatten().find(|entry| {
                entry["name"] == name && entry["family"] == "IPv4" && entry["protocol"] == "TCP"
            });
        let Some(entry) = entry else { return Ok(Vec::new()) };
        Ok(serde_json::from_value(entry["clusterEndpoints"].clone())?)
    }
}

/// Requests in the background.
pub struct Load {
    running: Vec<Running>,
}

impl Load {
    /// Stops, and panics unless every request was answered.
    pub fn assert_clean(self) -> u64 {
        let mut whole = Report::default();
        for running in self.running {
            let report = running.stop();
            report.assert_clean();
            whole.merge(report);
        }
        println!("load: {whole}");
        whole.answered()
    }
}

/// How many operations the agent says that its start took.
pub fn operations(agent: &Agent) -> Result<usize> {
    let log = agent.log();
    let line = log.lines().find(|line| line.contains(" ready ")).context("no line with \"ready\"")?;
    let word = line.split_whitespace().find_map(|word| word.strip_prefix("operations="));
    Ok(word.with_context(|| line.to_string())?.parse()?)
}
