//! A world with one Service that is reached in every way, an agent that handles the sockets of this process, and this
//! process on the node.

use anyhow::{Result, ensure};
use lb_tests::echo::Echo;
use lb_tests::world::{Agent, Cgroup, Family, Layout, NODE_NAME, NODE_V4, NODE_V6, World};
use serde_json::Value;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

const TARGET: u16 = 8_080;
pub const PORT: u16 = 80;
pub const NODE_PORT: u16 = 30_080;
const CLUSTER: [&str; 2] = ["10.96.0.10", "fd00:10:96::10"];
const BALANCER: [&str; 2] = ["203.0.113.10", "2001:db8:1::10"];
const EXTERNAL: [&str; 2] = ["198.51.100.10", "2001:db8:2::10"];

const APPLY_LIMIT: Duration = Duration::from_secs(10);

fn of(family: Family, addresses: [&str; 2]) -> IpAddr {
    addresses[usize::from(family == Family::V6)].parse().expect("an address")
}

/// The ClusterIP of the Service, with its port.
pub fn vip(family: Family) -> SocketAddr {
    (of(family, CLUSTER), PORT).into()
}

/// The address of the load balancer.
pub fn balancer(family: Family) -> SocketAddr {
    (of(family, BALANCER), PORT).into()
}

pub fn external_ip(family: Family) -> SocketAddr {
    (of(family, EXTERNAL), PORT).into()
}

/// The node's own address.
fn own(family: Family) -> IpAddr {
    if family == Family::V4 { NODE_V4.into() } else { NODE_V6.into() }
}

/// Every address at which the NodePort answers.
pub fn node_ports(family: Family) -> Vec<SocketAddr> {
    let loopback: &[&str] =
        if family == Family::V4 { &["127.0.0.1", "127.8.7.6", "0.0.0.0"] } else { &["::1", "::"] };
    let loopback = loopback.iter().map(|address| address.parse().expect("an address"));
    loopback.chain([own(family)]).map(|address| (address, NODE_PORT).into()).collect()
}

/// The number of an endpoint that is a pod on the network of this node.
pub const HOST: usize = 0;

/// The one Service, of type LoadBalancer with the external policy Local.
#[derive(Clone, Default)]
pub struct Web {
    /// Numbers of pods, counted from 1, or [`HOST`], each with its node.
    pub endpoints: Vec<(usize, &'static str)>,
    /// The timeout of session affinity in seconds.
    pub affinity: Option<u32>,
    pub internal_local: bool,
    pub source_ranges: &'static [&'static str],
}

impl Web {
    /// A Service with these pods as endpoints on this node.
    pub fn on(pods: impl IntoIterator<Item = usize>) -> Self {
        Self { endpoints: pods.into_iter().map(|pod| (pod, NODE_NAME)).collect(), ..Self::default() }
    }

    fn yaml(&self, world: &World) -> String {
        let mut spec = String::new();
        if let Some(seconds) = self.affinity {
            spec += &format!(
                "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}\n"
            );
        }
        if self.internal_local {
            spec += "  internalTrafficPolicy: Local\n";
        }
        if !self.source_ranges.is_empty() {
            spec += &format!("  loadBalancerSourceRanges: {:?}\n", self.source_ranges);
        }
        let [v4, v6] = CLUSTER;
        let mut yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default}}\nspec:\n  type: LoadBalancer\n  \
             clusterIP: {v4}\n  clusterIPs: ['{v4}', '{v6}']\n  ipFamilies: [IPv4, IPv6]\n  externalTrafficPolicy: \
             Local\n  externalIPs: {EXTERNAL:?}\n{spec}  ports:\n  \
             - {{name: tcp, protocol: TCP, port: {PORT}, nodePort: {NODE_PORT}}}\n  \
             - {{name: udp, protocol: UDP, port: {PORT}, nodePort: {NODE_PORT}}}\n\
             status:\n  loadBalancer:\n    ingress: [{{ip: '{}'}}, {{ip: '{}'}}]\n",
            BALANCER[0], BALANCER[1],
        );
        for (family, kind) in Family::ALL.into_iter().zip(["IPv4", "IPv6"]) {
            let _ = write!(
                yaml,
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-{}, namespace: \
                 default, labels: {{kubernetes.io/service-name: web}}}}\naddressType: {kind}\nports:\n\
                 - {{name: tcp, protocol: TCP, port: {TARGET}}}\n- {{name: udp, protocol: UDP, port: {TARGET}}}\n\
                 endpoints:\n",
                kind.to_lowercase(),
            );
            for (pod, node) in &self.endpoints {
                let ip = if *pod == HOST { own(family) } else { world.backend(*pod).ip(family) };
                let _ = writeln!(yaml, "- {{addresses: [\"{ip}\"], nodeName: {node}}}");
            }
        }
        yaml
    }
}

/// The fields are dropped in this order.
pub struct Stage {
    pub agent: Agent,
    _echoes: Vec<Echo>,
    pub world: World,
    pub cgroup: Cgroup,
}

impl Stage {
    /// `mode` is the value of `--socket-lb`.
    pub fn new(mode: &str, web: &Web) -> Result<Self> {
        let world = World::new(Layout::routed().with_backends(2))?;
        let cgroup = Cgroup::create()?;
        cgroup.enter()?;
        let start = |pod: &lb_tests::world::Pod| Echo::start(&pod.netns, &pod.name, &[TARGET]);
        let mut echoes = world.backends().iter().map(start).collect::<Result<Vec<_>>>()?;
        echoes.push(Echo::start(world.node(), "host", &[TARGET])?);
        let place = format!("--cgroup={}", cgroup.path().display());
        let agent = world.start_agent(&[&format!("--socket-lb={mode}"), &place])?;
        let stage = Self { agent, _echoes: echoes, world, cgroup };
        stage.apply(web)?;
        Ok(stage)
    }

    /// Does the work as a process of the host.
    pub fn node<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.world.node().enter(work)
    }

    /// Writes the Service without waiting for an agent.
    pub fn write(&self, web: &Web) -> Result<()> {
        self.world.manifests().write_text("web.yaml", &web.yaml(&self.world))
    }

    /// Writes the Service and waits until the tables agree with it.
    pub fn apply(&self, web: &Web) -> Result<()> {
        self.write(web)?;
        let policy = if web.internal_local { "Local" } else { "Cluster" };
        let affinity = web.affinity.map(Value::from).unwrap_or_default();
        self.wait_for_rows(4, |row| {
            row["clusterEndpoints"].as_array().map_or(0, Vec::len) == web.endpoints.len()
                && row["internalTrafficPolicy"] == policy
                && row["sessionAffinity"]["timeoutSeconds"] == affinity
        })
    }

    /// Deletes the Service and waits until the tables no longer contain it.
    pub fn delete(&self) -> Result<()> {
        std::fs::remove_file(self.world.manifests().folder().join("web.yaml"))?;
        self.wait_for_rows(0, |_| true)
    }

    /// Waits until each row of the Service has this number of endpoints in its Cluster set.
    pub fn wait_for_endpoints(&self, count: usize) -> Result<()> {
        self.wait_for_rows(4, |row| row["clusterEndpoints"].as_array().map_or(0, Vec::len) == count)
    }

    fn wait_for_rows(&self, count: usize, is_right: impl Fn(&Value) -> bool) -> Result<()> {
        let deadline = Instant::now() + APPLY_LIMIT;
        loop {
            let services = self.json(&["services"])?;
            let rows = services.as_array().map(Vec::as_slice).unwrap_or_default();
            if rows.len() == count && rows.iter().all(&is_right) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not applied within {APPLY_LIMIT:?}: {services:#}");
            sleep(Duration::from_millis(10));
        }
    }

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

    /// The ids of the programs on the cgroup as the kernel reports them, by attach type.
    pub fn programs(&self) -> Result<Vec<(String, u64)>> {
        let shown = std::process::Command::new("bpftool")
            .args(["cgroup", "show"])
            .arg(self.cgroup.path())
            .arg("-j")
            .output()?;
        // bpftool prints nothing if there are no programs.
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
        let mut programs: Vec<_> = shown
            .as_array()
            .into_iter()
            .flatten()
            .map(|program| (program["attach_type"].to_string(), program["id"].as_u64().unwrap_or_default()))
            .collect();
        programs.sort();
        Ok(programs)
    }
}
