//! A world with Services in it, their load, and the contents of their tables.

use anyhow::{Context, Result, ensure};
use lb_common::Proto;
use lb_tests::cluster::Cluster;
use lb_tests::echo::Echo;
use lb_tests::load::{Held, HeldTcp, HeldUdp, Pinger, Report, Requests, Running};
use lb_tests::world::{Agent, Endpoint, Family, Layout, NODE_NAME, Service, Source, World, lb_binary};
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::dataplane::pins::Pins;
use lb_userspace::tables::Tables;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The port on which pods serve TCP and UDP.
pub const TARGET: u16 = 8_080;
/// A port on which no pod serves.
pub const CLOSED: u16 = 9_999;

/// The last byte of the addresses of two Services that every stage has.
pub const WEB: u8 = 10;
pub const SHOP: u8 = 20;

/// Servers on each backend pod, and two Services with all of these pods. No agent is started yet.
pub struct Stage {
    pub echoes: Vec<Echo>,
    /// A real API server and its kubeconfig if the objects come from one. Dropped before the world that it is in.
    api: Option<(Cluster, PathBuf)>,
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
    /// Provides the Services as manifests.
    pub fn new(layout: Layout) -> Result<Self> {
        Self::set_up(World::new(layout)?, None)
    }

    /// Provides the Services as objects of an API server on the node.
    pub fn on_api(layout: Layout) -> Result<Self> {
        let world = World::new(layout)?;
        let cluster = Cluster::in_world(&world)?;
        cluster.apply(&format!("{{apiVersion: v1, kind: Node, metadata: {{name: {NODE_NAME}}}}}"))?;
        let kubeconfig = cluster.kubeconfig("admin")?;
        Self::set_up(world, Some((cluster, kubeconfig)))
    }

    fn set_up(world: World, api: Option<(Cluster, PathBuf)>) -> Result<Self> {
        let echoes = world
            .backends()
            .iter()
            .map(|pod| Echo::start(&pod.netns, &pod.name, &[TARGET]))
            .collect::<Result<_>>()?;
        let stage = Self { echoes, api, world };
        for (name, host) in [("web", WEB), ("shop", SHOP)] {
            stage.write(&service(name, host), stage.world.backends())?;
        }
        Ok(stage)
    }

    /// Starts an agent that follows the stage's Services and waits until it is ready.
    pub fn start_agent(&self, args: &[&str]) -> Result<Agent> {
        let mut agent = self.spawn_agent_of(&lb_binary()?, args)?;
        agent.wait_until_ready()?;
        Ok(agent)
    }

    /// Starts another `lb` binary in the same way, without waiting.
    pub fn spawn_agent_of(&self, binary: &Path, args: &[&str]) -> Result<Agent> {
        let source = match &self.api {
            Some((_, kubeconfig)) => Source::Api(kubeconfig),
            None => Source::Manifests,
        };
        self.world.spawn_agent_of(binary, source, args)
    }

    /// Writes a Service with these endpoints, replacing its previous state.
    pub fn write<E: Into<Endpoint>>(
        &self,
        service: &Service,
        endpoints: impl IntoIterator<Item = E>,
    ) -> Result<()> {
        let service = service.clone().endpoints(endpoints);
        match &self.api {
            Some((cluster, _)) => cluster.apply(&service.yaml()),
            None => self.world.manifests().write(&service),
        }
    }

    /// Starts new connections and datagrams to a Service in both families, `rate` of each per second.
    pub fn load(&self, host: u8, rate: u32) -> Load {
        let start = |family, proto| {
            let requests = Requests::new(proto, vip(host, family, proto)).rate(rate).workers(2);
            requests.during(Duration::from_secs(300)).start(&self.world.client().netns)
        };
        let all = Family::ALL.into_iter().flat_map(|family| [(family, Proto::Tcp), (family, Proto::Udp)]);
        Load { running: all.map(|(family, proto)| start(family, proto)).collect() }
    }

    /// Opens this many connections and dialogues to a Service in each family, and keeps them busy.
    pub fn talk(&self, host: u8, count: usize) -> Result<Talk> {
        let client = &self.world.client().netns;
        let mut talk = Talk { tcp: Vec::new(), udp: Vec::new() };
        for family in Family::ALL {
            let tcp = HeldTcp::open(client, vip(host, family, Proto::Tcp), count)?;
            talk.tcp.push(Pinger::start(tcp, Duration::from_millis(1)));
            let udp = HeldUdp::open(client, vip(host, family, Proto::Udp), count)?;
            talk.udp.push(Pinger::start(udp, Duration::from_millis(1)));
        }
        Ok(talk)
    }

    /// Sends a few requests to a Service, in both families and protocols.
    pub fn ask(&self, host: u8) -> Report {
        let mut whole = Report::default();
        for family in Family::ALL {
            for proto in [Proto::Tcp, Proto::Udp] {
                let requests = Requests::new(proto, vip(host, family, proto)).count(5).workers(1);
                whole.merge(requests.timeout(Duration::from_secs(20)).run(&self.world.client().netns));
            }
        }
        whole
    }

    /// Opens the pinned maps for reading.
    pub fn maps(&self) -> Result<Maps> {
        Maps::open(&Pins::new(&self.world.folder().pins()), false)
    }

    /// All tables except those of flows, including ids and generations.
    pub fn tables(&self) -> Result<Tables> {
        lb_userspace::dataplane::read(&self.maps()?)
    }

    /// The output of `lb <command> -o json`.
    pub fn json(&self, command: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.world.lb(&[command, "-o", "json"])?)?)
    }

    /// The used entries of a table, as `lb status` reports them.
    pub fn used(&self, table: &str) -> Result<u64> {
        let status = self.json("status")?;
        let fills = status["tables"].as_array().context("tables of lb status")?;
        let fill = fills.iter().find(|fill| fill["name"] == table).with_context(|| table.to_string())?;
        fill["used"].as_u64().context("used")
    }

    /// The value of a counter, as `lb status` reports it.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let status = self.json("status")?;
        let counters = status["counters"].as_array().context("counters of lb status")?;
        let counter = counters.iter().find(|counter| counter["name"] == name);
        Ok(counter.and_then(|counter| counter["value"].as_u64()).unwrap_or(0))
    }

    /// The addresses of the endpoints in the Cluster set of a Service's TCP port, IPv4.
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

/// Held connections and dialogues, each asked again and again.
pub struct Talk {
    tcp: Vec<Pinger<HeldTcp>>,
    udp: Vec<Pinger<HeldUdp>>,
}

impl Talk {
    /// Stops and panics unless every question was answered, by the same backend.
    pub fn assert_clean(self) {
        fn end<H: Held>(proto: Proto, pingers: Vec<Pinger<H>>) {
            for pinger in pingers {
                let rounds = pinger.rounds();
                let (_, failures) = pinger.stop();
                println!("{proto}: {rounds} rounds, {} failures", failures.len());
                assert!(failures.is_empty(), "{proto}, the first: {}", failures[0]);
            }
        }
        end(Proto::Tcp, self.tcp);
        end(Proto::Udp, self.udp);
    }
}

/// Requests that run in the background.
pub struct Load {
    running: Vec<Running>,
}

impl Load {
    /// Waits until this number of further requests have begun.
    pub fn wait_for(&self, more: u64) -> Result<()> {
        let begun = || self.running.iter().map(Running::begun).sum::<u64>();
        let (wanted, deadline) = (begun() + more, Instant::now() + Duration::from_secs(60));
        while begun() < wanted {
            ensure!(Instant::now() < deadline, "{} of {wanted} requests", begun());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Stops and panics unless every request was answered.
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

/// The number of operations that the agent reports for its start.
pub fn operations(agent: &Agent) -> Result<usize> {
    let log = agent.log();
    let line = log.lines().find(|line| line.contains(" ready ")).context("no line with \"ready\"")?;
    let word = line.split_whitespace().find_map(|word| word.strip_prefix("operations="));
    Ok(word.with_context(|| line.to_string())?.parse()?)
}
