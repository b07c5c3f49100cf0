//! A flood of spoofed SYNs against a Service that is in use, as it comes to where sources are not checked.

use crate::stage::{Stage, WEB, vip};
use anyhow::Result;
use lb_common::Proto;
use lb_tests::load::{HeldTcp, HeldUdp, Pinger, SynFlood};
use lb_tests::world::{Family, Layout};
use lb_userspace::dataplane::shape::Sizes;
use std::collections::BTreeMap;
use std::time::Duration;

const CONNECTIONS: usize = 1_000;
const DIALOGUES: usize = 100;
const SYNS: usize = 200_000;
/// The flood overflows the machine's queue between links (`net.core.netdev_max_backlog`): some 5,000 packets of each
/// run are dropped there (second column of `/proc/net/softnet_stat`), a datagram of a dialogue now and then. TCP sends
/// again by itself.
const TRIES: u32 = 4;

/// The client's address and port mapped to the backend's, for all assured flows.
fn assured(stage: &Stage, proto: &str) -> Result<BTreeMap<String, String>> {
    let flows = stage.json("flows")?;
    let flows = flows.as_array().into_iter().flatten();
    let flows = flows.filter(|flow| flow["phase"] == "assured" && flow["protocol"] == proto);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_string();
    Ok(flows
        .inspect(|flow| assert_eq!(flow["phase"], "assured", "{flow}"))
        .map(|flow| (text(&flow["client"]), text(&flow["backend"])))
        .collect())
}

fn check_flood(family: Family) -> Result<()> {
    let stage = Stage::new(Layout::routed().with_clients(2))?;
    let _agent = stage.world.start_agent(&["--source-check", "off"])?;
    let client = stage.world.client();
    let target = vip(WEB, family, Proto::Tcp);
    let tcp = HeldTcp::open(&client.netns, target, CONNECTIONS)?;
    let udp = HeldUdp::open(&client.netns, vip(WEB, family, Proto::Udp), DIALOGUES)?.with_tries(TRIES);
    let backends = (tcp.backends(), udp.backends());
    let address = |name: &str| stage.world.pod(name).at(family, crate::stage::TARGET).to_string();
    let expected: BTreeMap<_, _> =
        tcp.connections.iter().map(|held| (held.local.to_string(), address(&held.backend))).collect();
    assert_eq!(assured(&stage, "TCP")?, expected);
    assert_eq!(assured(&stage, "UDP")?.len(), DIALOGUES);
    assert_eq!(stage.used("flows_live")?, (CONNECTIONS + DIALOGUES) as u64);
    let created = stage.counter("flow_created")?;

    let pingers =
        (Pinger::start(tcp, Duration::from_millis(200)), Pinger::start(udp, Duration::from_millis(200)));
    let took = SynFlood::to(target).packets(SYNS).run(stage.world.pod("client2"))?;
    // All connections are asked once more after the last SYN.
    let ((mut tcp, mut failures), (mut udp, more)) = (pingers.0.stop(), pingers.1.stop());
    failures.extend(more);
    failures.extend(lb_tests::load::Held::ping(&mut tcp));
    failures.extend(lb_tests::load::Held::ping(&mut udp));
    assert!(failures.is_empty(), "{} failures, the first: {}", failures.len(), failures[0]);
    assert_eq!((tcp.backends(), udp.backends()), backends);

    let created = stage.counter("flow_created")? - created;
    let (half_open, clashes) = (stage.used("half_open")?, stage.counter("clash_dropped")?);
    println!(
        "{family:?}: {SYNS} SYNs in {took:.1?}, {created} flows created, {half_open} half open, \
         {clashes} dropped for a clash"
    );
    assert!(created >= SYNS as u64 * 95 / 100, "the flood did not pass through lb: {created} flows");
    let ring = Sizes::default().ring();
    assert!((1..=u64::from(ring)).contains(&half_open), "{half_open} of {ring}");
    assert_eq!(stage.used("flows_live")?, (CONNECTIONS + DIALOGUES) as u64, "the flood has no live flows");
    assert!(stage.counter("flow_evicted")? >= SYNS as u64 * 95 / 100 - u64::from(ring));
    assert_eq!(assured(&stage, "TCP")?, expected, "every connection has its flow and its backend");
    assert_eq!(stage.counter("drop_flow_insert")?, 0);
    stage.ask(WEB).assert_clean();
    Ok(())
}

#[test]
fn connections_live_through_a_flood_v4() -> Result<()> {
    check_flood(Family::V4)
}

#[test]
fn connections_live_through_a_flood_v6() -> Result<()> {
    check_flood(Family::V6)
}
