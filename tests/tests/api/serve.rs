//! The agent serves the Services that are created through the API.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lb_tests::cluster::Cluster;
use lb_tests::echo::Echo;
use lb_tests::load::{Requests, udp_request};
use lb_tests::world::{Family, Layout, NODE_NAME, Service, World};

const PORT: u16 = 80;
const TARGET: u16 = 8_080;
const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_service_of_the_api_is_served_changed_and_gone() -> Result<()> {
    let world = World::new(Layout::routed())?;
    let start = |number| Echo::start(&world.backend(number).netns, &world.backend(number).name, &[TARGET]);
    let _echoes = [start(1)?, start(2)?, start(3)?];
    let cluster = Cluster::shared()?;
    let door = cluster.door(world.node())?;
    cluster.apply(&format!("{{apiVersion: v1, kind: Node, metadata: {{name: {NODE_NAME}}}}}"))?;
    let kubeconfig = cluster.kubeconfig_at("admin", door.address())?;
    let agent = world.start_agent_on_api(&kubeconfig, &[])?;

    let web = Service::new("web").vips(10).tcp(PORT, TARGET).udp(PORT, TARGET);
    let vips: Vec<_> = web.cluster_ips.iter().map(|ip| (*ip, PORT).into()).collect();
    cluster.apply(&web.clone().endpoints(&world.backends()[..2]).yaml())?;
    // The frontend that was written last answers.
    wait_for(|| udp_request_of(&world, vips[1]).is_ok_and(|name| name == "b1" || name == "b2"))?;
    for (vip, family) in vips.iter().zip(Family::ALL) {
        let report = Requests::tcp(*vip).count(400).run(&world.client().netns);
        report.assert_clean();
        report.assert_spread(&["b1", "b2"], 0.3);
        assert_eq!(vip.is_ipv4(), family == Family::V4);
    }

    cluster.apply(&web.clone().endpoints(&world.backends()[2..]).yaml())?;
    wait_for(|| udp_request_of(&world, vips[1]).is_ok_and(|name| name == "b3"))?;
    Requests::tcp(vips[1]).count(100).run(&world.client().netns).assert_spread(&["b3"], 0.0);

    cluster.delete("v1", "Service", "default", "web")?;
    wait_for(|| world.lb(&["services"]).is_ok_and(|services| !services.contains("default/web")))?;
    assert!(!agent.log().contains("ERROR"), "{}", agent.log());
    Ok(())
}

fn udp_request_of(world: &World, vip: std::net::SocketAddr) -> Result<String> {
    let ask = || udp_request(vip, Duration::from_millis(200));
    world.client().netns.enter(ask).map_err(|failure| anyhow::anyhow!("{failure:?}"))
}

fn wait_for(is_so: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        ensure!(Instant::now() < deadline, "not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
