//! Endpoints that are not pods on the node's pod network: pods on the host's network, other addresses of the node,
//! and machines elsewhere. (Processes on the node are clients through their sockets.)

use crate::kinds;
use crate::removal::wait_until;
use crate::stage::{PROTOS, Stage, TARGET, service, vip};
use anyhow::Result;
use lb_common::Proto;
use lb_tests::echo::Echo;
use lb_tests::load::{Held, HeldTcp, Kind, Requests, transfer};
use lb_tests::world::{Cni, Endpoint, Family, Layout, NODE_NAME, NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6};
use std::net::IpAddr;

fn layouts() -> [Layout; 4] {
    [
        Layout::routed(),
        Layout::routed().with_policy(),
        Layout::bridge(false, true),
        Layout::bridge(true, true).with_rp_filter(1),
    ]
}

/// Behind a bridge, a UDP server that is not bound to an address answers from the bridge's address, whichever one was
/// asked: clients do not recognize such an answer, with kube-proxy and even without any Service.
fn protos(stage: &Stage) -> &'static [Proto] {
    match stage.world.layout().cni {
        Cni::Routed => &PROTOS,
        Cni::Bridge { .. } => &[Proto::Tcp],
    }
}

fn endpoint(name: &str, addresses: [IpAddr; 2]) -> Endpoint {
    Endpoint {
        pod: name.into(),
        addresses: addresses.into(),
        node: NODE_NAME.into(),
        ready: true,
        serving: true,
        terminating: false,
    }
}

/// The frontends include the NodePort: its address is the endpoint's own, and only the port changes.
#[test]
fn a_pod_reaches_a_backend_on_the_hosts_network_by_frontends_of_every_kind() -> Result<()> {
    for layout in layouts() {
        let stage = Stage::new(layout)?;
        let _node = Echo::start(stage.world.node(), "node", &[TARGET])?;
        kinds::serve(&stage, [NODE_V4.into(), NODE_V6.into()])?;
        for family in Family::ALL {
            for target in kinds::frontends(family)? {
                for &proto in protos(&stage) {
                    let report = Requests::new(proto, target).count(50).run(stage.client());
                    report.assert_clean();
                    assert_eq!(report.answers.get("node"), Some(&50), "{proto} {target}: {report}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_backend_on_the_hosts_network_is_one_among_others() -> Result<()> {
    for layout in layouts() {
        let stage = Stage::new(layout)?;
        let node = Echo::start(stage.world.node(), "node", &[TARGET])?;
        let web = service("web", 10);
        let pods = [1, 2].map(|number| Endpoint::from(stage.world.backend(number)));
        let with = [&pods[..], &[endpoint("node", [NODE_V4.into(), NODE_V6.into()])]].concat();
        for family in Family::ALL {
            stage.apply(&web.clone().endpoints(with.clone()))?;
            for &proto in protos(&stage) {
                let report = Requests::new(proto, vip(family, 10)).count(300).run(stage.client());
                report.assert_clean();
                report.assert_fair(&["b1", "b2", "node"]);
                // The client may also be a pod that is one of the backends.
                let report =
                    Requests::new(proto, vip(family, 10)).count(300).run(&stage.world.backend(1).netns);
                report.assert_clean();
                report.assert_fair(&["b1", "b2", "node"]);
            }
            let mut held = HeldTcp::open(stage.client(), vip(family, 10), 60)?;
            let of_node = held.backends()["node"];
            stage.apply(&web.clone().endpoints(pods.clone()))?;
            let kinds: Vec<Kind> = held.ping().into_iter().map(|failure| failure.kind).collect();
            assert_eq!(kinds, vec![Kind::Reset; of_node]);
            wait_until(|| node.open() == 0, "the node's server has closed its connections");
        }
    }
    Ok(())
}

/// A Service without a selector may name any machine.
#[test]
fn a_pod_reaches_an_endpoint_beyond_the_uplink() -> Result<()> {
    for layout in layouts() {
        let stage = Stage::new(layout)?;
        let _outside = Echo::start(stage.world.outside(), "outside", &[TARGET])?;
        let outside = endpoint("outside", [OUTSIDE_V4.into(), OUTSIDE_V6.into()]);
        stage.apply(&service("web", 10).endpoints([outside]))?;
        for family in Family::ALL {
            for proto in PROTOS {
                let report = Requests::new(proto, vip(family, 10)).count(50).run(stage.client());
                assert_eq!(report.answers.get("outside"), Some(&50), "{proto}: {report}");
            }
            assert_eq!(transfer(stage.client(), vip(family, 10), 4)?.backend, "outside");
        }
    }
    Ok(())
}
