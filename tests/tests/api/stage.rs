//! Three backends, and one Service of the API in front of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lb_tests::cluster::Cluster;
use lb_tests::echo::Echo;
use lb_tests::load::{Requests, udp_request};
use lb_tests::world::{Endpoint, Layout, NODE_NAME, Service, World};

pub const PORT: u16 = 80;
const TARGET: u16 = 8_080;
const LIMIT: Duration = Duration::from_secs(20);

pub struct Stage {
    // Gone before the world that they are in.
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

    /// Writes the Node, and the Service with these backends, counted from 1.
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

    /// Waits until the Service has as many endpoints, in both families and protocols.
    pub fn wait_for(&self, backends: &[usize]) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let expected: Vec<String> =
            backends.iter().map(|number| format!("{}:{TARGET}", self.world.backend(*number).v4)).collect();
        loop {
            let services: serde_json::Value =
                serde_json::from_str(&self.world.lb(&["services", "-o", "json"])?)?;
            let endpoints: Vec<_> = services
                .as_array()
                .into_iter()
                .flatten()
                .filter(|service| service["name"] == "web" && service["family"] == "IPv4")
                .map(|service| service["clusterEndpoints"].clone())
                .collect();
            if endpoints == [serde_json::json!(expected), serde_json::json!(expected)] {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not {expected:?} within {LIMIT:?}: {endpoints:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Requests now are answered by these backends.
    pub fn assert_served_by(&self, backends: &[&str]) {
        let report = Requests::tcp(self.vip()).count(100).run(&self.world.client().netns);
        report.assert_clean();
        report.assert_spread(backends, 1.0);
        let ask = || udp_request(self.vip(), Duration::from_secs(1));
        let name = self.world.client().netns.enter(ask).expect("an answer");
        assert!(backends.contains(&&*name), "{name}");
    }
}
