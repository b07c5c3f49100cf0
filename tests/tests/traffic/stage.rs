//! A world with echo servers and an agent in it, which these tests run in.

use anyhow::{Result, ensure};
use lb_common::Proto;
use lb_tests::echo::Echo;
use lb_tests::world::{Agent, Family, Layout, Netns, Pod, Service, World};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The port on which echo servers listen, for both protocols.
pub const TARGET: u16 = 8_080;
/// The port of the Services.
pub const PORT: u16 = 80;

pub const PROTOS: [Proto; 2] = [Proto::Tcp, Proto::Udp];

/// The time within which a change must be in the tables.
const APPLY_LIMIT: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(10);

/// The fields are dropped in this order: what runs inside the world ends before the world.
pub struct Stage {
    pub agent: Agent,
    pub echoes: BTreeMap<String, Echo>,
    pub world: World,
}

impl Stage {
    /// Starts the agent with `--attach auto`.
    pub fn new(layout: Layout) -> Result<Self> {
        Self::with_args(layout, &[])
    }

    pub fn with_args(layout: Layout, args: &[&str]) -> Result<Self> {
        let world = World::new(layout)?;
        let start = |pod: &Pod| Ok((pod.name.clone(), Echo::start(&pod.netns, &pod.name, &[TARGET])?));
        let echoes = world.backends().iter().map(start).collect::<Result<_>>()?;
        let agent = world.start_agent(args)?;
        Ok(Self { agent, echoes, world })
    }

    pub fn client(&self) -> &Netns {
        &self.world.client().netns
    }

    pub fn echo(&self, name: &str) -> &Echo {
        &self.echoes[name]
    }

    /// The first `count` backend pods.
    pub fn backends(&self, count: usize) -> &[Pod] {
        &self.world.backends()[..count]
    }

    /// Writes a Service and waits until the tables agree with it.
    pub fn apply(&self, service: &Service) -> Result<()> {
        self.world.manifests().write(service)?;
        let deadline = Instant::now() + APPLY_LIMIT;
        loop {
            let difference = self.difference(service)?;
            if difference.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not applied within {APPLY_LIMIT:?}: {difference}");
            sleep(STEP);
        }
    }

    /// How the tables differ from the Service; empty if they agree.
    fn difference(&self, service: &Service) -> Result<String> {
        let of_service = |row: &&Value| row["name"] == service.name.as_str();
        let services = self.json(&["services"])?;
        let rows: Vec<&Value> = services.as_array().into_iter().flatten().filter(of_service).collect();
        let ports = service.ports.len() * service.cluster_ips.len();
        if rows.len() != ports {
            return Ok(format!("{} of {ports} ports are there", rows.len()));
        }
        let taking: BTreeSet<String> = rows.iter().flat_map(|row| texts(&row["clusterEndpoints"])).collect();
        let backends = self.json(&["backends"])?;
        let there: BTreeSet<(String, bool)> = backends
            .as_array()
            .into_iter()
            .flatten()
            .filter(of_service)
            .map(|row| (row["address"].as_str().unwrap_or_default().to_owned(), row["state"] == "active"))
            .collect();
        let wanted_taking = addresses(service, |endpoint| endpoint.ready);
        let wanted_there: BTreeSet<(String, bool)> = addresses(service, |endpoint| endpoint.ready)
            .into_iter()
            .map(|address| (address, true))
            .chain(addresses(service, |endpoint| !endpoint.ready).into_iter().map(|address| (address, false)))
            .collect();
        if taking == wanted_taking && there == wanted_there {
            return Ok(String::new());
        }
        Ok(format!("endpoints {taking:?}, backends {there:?}, not {wanted_taking:?} and {wanted_there:?}"))
    }

    /// Runs a command of `lb` and parses its JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.world.lb(&[args, &["-o", "json"]].concat())?)?)
    }

    /// The value of a counter of `lb status`.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let status = self.json(&["status"])?;
        let counters = status["counters"].as_array().cloned().unwrap_or_default();
        let counter = counters.iter().find(|counter| counter["name"] == name);
        Ok(counter.and_then(|counter| counter["value"].as_u64()).unwrap_or_default())
    }

    /// The hook that holds our programs on each link of a pod; `-` if there is none.
    pub fn hooks(&self) -> Result<BTreeMap<String, String>> {
        let status = self.json(&["status"])?;
        let links = status["links"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        Ok(links
            .iter()
            .filter(|link| link["role"] == "pod")
            .map(|link| (text(&link["name"]), text(&link["hook"])))
            .collect())
    }

    /// The hooks of a world in which the link of every pod has this hook.
    pub fn hooks_of_all_pods(&self, hook: &str) -> BTreeMap<String, String> {
        self.world.pods().iter().map(|pod| (pod.link.clone(), hook.to_owned())).collect()
    }

    /// Waits until the link of every pod has this hook.
    pub fn wait_for_hooks(&self, hook: &str) -> Result<()> {
        let (wanted, deadline) = (self.hooks_of_all_pods(hook), Instant::now() + APPLY_LIMIT);
        loop {
            let hooks = self.hooks()?;
            if hooks == wanted {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "hooks are {hooks:?} after {APPLY_LIMIT:?}, not all {hook}");
            sleep(STEP);
        }
    }
}

/// `address:port` of the endpoints that satisfy `is_such`, as `lb` writes them.
fn addresses(service: &Service, is_such: impl Fn(&lb_tests::world::Endpoint) -> bool) -> BTreeSet<String> {
    let ports: BTreeSet<u16> = service.ports.iter().map(|port| port.target).collect();
    let at = |address| ports.iter().map(move |port| SocketAddr::new(address, *port).to_string());
    let addresses = service.endpoints.iter().filter(|endpoint| is_such(endpoint)).flat_map(|e| &e.addresses);
    addresses.copied().flat_map(at).collect()
}

fn texts(array: &Value) -> Vec<String> {
    array.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A dual stack Service on [`PORT`], TCP and UDP.
pub fn service(name: &str, host: u8) -> Service {
    Service::new(name).vips(host).tcp(PORT, TARGET).udp(PORT, TARGET)
}

/// The address of a Service that [`service`] returned.
pub fn vip(family: Family, host: u8) -> SocketAddr {
    let vips = Service::new("").vips(host).cluster_ips;
    let ip = vips.into_iter().find(|ip| ip.is_ipv4() == (family == Family::V4));
    SocketAddr::new(ip.expect("vips are of both families"), PORT)
}
