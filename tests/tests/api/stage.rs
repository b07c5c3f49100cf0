//! Three backends, and one Service of the API in front of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lb_tests::cluster::Cluster;
use lb_tests::echo::Echo;
use lb_tests::load::{Requests, udp_request};
use lb_tests::world::{Endpoint, Family, Layout, NODE_NAME, Service, World};

pub const PORT: u16 = 80;
const TARGET: u16 = 8_080;
const LIMIT: Duration = Duration::from_secs(20);

pub struct Stage {
    // Dropped before the world that they are in.
    _echoes: Vec<Echo>,
    pub world: World,
    pub web: Service,
}

impl Stage {
    pub fn new() -> Result<Self> {
        let world = World::new(Layout::routed())?;
        let echoes = world.backends().iter().map(|pod| Echo::start(&pod.netns, &pod.name, &[TARGET]));
        let echoes = echoes.collect::<Result<_>>()?;
        let web = Service::new("web").vips(10).tcp(PORT, TARGET).udp(PORT, TARGET);
        Ok(Self { world, web, _echoes: echoes })
    }

    /// Writes the Node, and the Service with these backends, which are counted from 1.
    pub fn begin(&self, cluster: &Cluster, backends: &[usize]) -> Result<()> {
        cluster.apply(&format!("{{apiVersion: v1, kind: Node, metadata: {{name: {NODE_NAME}}}}}"))?;
        self.change(cluster, backends)
    }

    pub fn change(&self, cluster: &Cluster, backends: &[usize]) -> Result<()> {
        let endpoints = backends.iter().map(|number| Endpoint::from(self.world.backend(*number)));
        cluster.apply(&self.web.clone().endpoints(endpoints).yaml())
    }

    pub fn vip(&self) -> SocketAddr {
        (self.web.cluster_ips[0], PORT).into()
    }

    /// Waits until the Service has exactly these endpoints, in both families and protocols.
    pub fn wait_for(&self, backends: &[usize]) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let expected = |family: &str| -> serde_json::Value {
            let pods = backends.iter().map(|number| self.world.backend(*number));
            let addresses = pods.map(|pod| pod.ip(if family == "IPv4" { Family::V4 } else { Family::V6 }));
            addresses.map(|address| SocketAddr::new(address, TARGET).to_string()).collect()
        };
        let expected: Vec<_> =
            ["IPv4", "IPv6"].iter().flat_map(|family| [expected(family), expected(family)]).collect();
        loop {
            let services: serde_json::Value =
                serde_json::from_str(&self.world.lb(&["services", "-o", "json"])?)?;
            let rows = |family: &'static str| {
                let rows = services.as_array().into_iter().flatten();
                rows.filter(move |row| row["name"] == "web" && row["family"] == family)
            };
            let endpoints: Vec<_> =
                rows("IPv4").chain(rows("IPv6")).map(|row| row["clusterEndpoints"].clone()).collect();
            if endpoints == expected {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not {expected:?} within {LIMIT:?}: {endpoints:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asserts that requests are now answered by exactly these backends.
    pub fn assert_served_by(&self, backends: &[&str]) {
        let report = Requests::tcp(self.vip()).count(100).run(&self.world.client().netns);
        report.assert_clean();
        report.assert_spread(backends, 1.0);
        let ask = || udp_request(self.vip(), Duration::from_secs(1));
        let name = self.world.client().netns.enter(ask).expect("an answer");
        assert!(backends.contains(&&*name), "{name}");
    }
}
