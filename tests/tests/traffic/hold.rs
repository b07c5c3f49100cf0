//! A connection keeps its backend while other backends come and go.

use crate::stage::{PROTOS, Stage, service, vip};
use anyhow::{Context, Result, ensure};
use lb_tests::load::{Failure, Held, HeldTcp, HeldUdp, Pinger, Requests, transfer};
use lb_tests::world::{Family, Layout, Pod};
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// `b1` and `b2` stay; the other backends change, between an empty and a full set.
const CHANGES: [&[usize]; 7] =
    [&[1, 2, 3], &[3, 4, 1, 2], &[1, 2, 4], &[5, 2, 1], &[1, 2], &[2, 3, 1, 5, 4], &[1, 2]];

#[test]
fn connections_keep_their_backends_while_others_come_and_go() -> Result<()> {
    let stage = Stage::new(Layout::routed().with_backends(5))?;
    let web = service("web", 10);
    stage.apply(&web.clone().endpoints(stage.backends(2)))?;
    let mut pingers: Vec<Box<dyn Stop>> = Vec::new();
    for family in Family::ALL {
        let tcp = HeldTcp::open(stage.client(), vip(family, 10), 40)?;
        let udp = HeldUdp::open(stage.client(), vip(family, 10), 40)?;
        assert_eq!(
            tcp.backends().len() + udp.backends().len(),
            4,
            "both backends have connections of both protocols"
        );
        pingers.push(Box::new(Pinger::start(tcp, PAUSE)));
        pingers.push(Box::new(Pinger::start(udp, PAUSE)));
    }
    for set in CHANGES {
        let pods: Vec<&Pod> = set.iter().map(|number| stage.world.backend(*number)).collect();
        stage.apply(&web.clone().endpoints(pods.iter().copied()))?;
        let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
        for family in Family::ALL {
            for proto in PROTOS {
                let report = Requests::new(proto, vip(family, 10)).count(60).run(stage.client());
                report.assert_clean();
                assert!(
                    report.answers.keys().all(|name| names.contains(&name.as_str())),
                    "{names:?}: {report}"
                );
            }
        }
    }
    for pinger in pingers {
        let (rounds, failures) = pinger.stop();
        assert!(failures.is_empty(), "{} failures, the first: {}", failures.len(), failures[0]);
        assert!(rounds >= CHANGES.len(), "only {rounds} rounds for {} changes", CHANGES.len());
    }
    Ok(())
}

/// A second port makes port names compulsory, so the port without a name gets one. The Service is written first and
/// its slices follow; in between no endpoint is ready.
#[test]
fn connections_outlive_another_name_of_their_port() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let web = service("web", 10).endpoints(stage.backends(2));
    stage.apply(&web)?;
    let mut pingers: Vec<Box<dyn Stop>> = Vec::new();
    for family in Family::ALL {
        pingers.push(Box::new(Pinger::start(HeldTcp::open(stage.client(), vip(family, 10), 20)?, PAUSE)));
        pingers.push(Box::new(Pinger::start(HeldUdp::open(stage.client(), vip(family, 10), 20)?, PAUSE)));
    }
    let manifest = fs::read_to_string(stage.world.manifests().folder().join("default.web.yaml"))?;
    let (first, slices) = manifest.split_once("---").context("a Service, then its slices")?;
    let renamed = |text: &str| text.replace("tcp-", "http-").replace("udp-", "quic-");
    for (text, endpoints) in [(format!("{}---{slices}", renamed(first)), 0), (renamed(&manifest), 2)] {
        stage.world.manifests().write_text("default.web.yaml", &text)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        let is_so = |row: &serde_json::Value| {
            let name = row["portName"].as_str().unwrap_or_default();
            let found = row["clusterEndpoints"].as_array().map_or(0, Vec::len);
            (name.starts_with("http-") || name.starts_with("quic-")) && found == endpoints
        };
        while !stage.json(&["services"])?.as_array().is_some_and(|rows| rows.iter().all(is_so)) {
            ensure!(Instant::now() < deadline, "not applied: {}", stage.json(&["services"])?);
            sleep(Duration::from_millis(10));
        }
        sleep(Duration::from_millis(300));
    }
    for pinger in pingers {
        let (rounds, failures) = pinger.stop();
        assert!(failures.is_empty(), "{} failures, the first: {}", failures.len(), failures[0]);
        assert!(rounds >= 10, "only {rounds} rounds");
    }
    assert_eq!(stage.counter("reset_backend_gone")?, 0);
    for family in Family::ALL {
        for proto in PROTOS {
            Requests::new(proto, vip(family, 10)).count(20).run(stage.client()).assert_clean();
        }
    }
    Ok(())
}

const PAUSE: Duration = Duration::from_millis(5);

/// Pingers of both protocols in one list.
trait Stop {
    /// Stops and returns the number of rounds and the failures.
    fn stop(self: Box<Self>) -> (usize, Vec<Failure>);
}

impl<H: Held> Stop for Pinger<H> {
    fn stop(self: Box<Self>) -> (usize, Vec<Failure>) {
        let rounds = self.rounds();
        (rounds, Pinger::stop(*self).1)
    }
}

#[test]
fn a_transfer_continues_while_other_backends_come_and_go() -> Result<()> {
    let stage = Stage::new(Layout::bridge(false, true))?;
    let web = service("web", 10);
    for family in Family::ALL {
        stage.apply(&web.clone().endpoints(stage.backends(1)))?;
        let client = stage.client().clone();
        let running = std::thread::spawn(move || transfer(&client, vip(family, 10), 60));
        let mut changes = 0;
        while !running.is_finished() || changes == 0 {
            stage.apply(&web.clone().endpoints(stage.backends(1 + (changes + 1) % 3)))?;
            changes += 1;
        }
        let whole = running.join().expect("a transfer returns its failure")?;
        assert_eq!((whole.backend.as_str(), whole.bytes), ("b1", 60 << 20));
    }
    Ok(())
}

/// The pause is longer than the resolution of the last-seen time.
#[test]
fn connections_outlive_a_pause() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    stage.apply(&service("web", 10).endpoints(stage.backends(3)))?;
    let mut held: Vec<Box<dyn Held>> = Vec::new();
    for family in Family::ALL {
        held.push(Box::new(HeldTcp::open(stage.client(), vip(family, 10), 20)?));
        held.push(Box::new(HeldUdp::open(stage.client(), vip(family, 10), 20)?));
    }
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(1_100));
        let failures: Vec<Failure> = held.iter_mut().flat_map(|held| held.ping()).collect();
        assert!(failures.is_empty(), "{} failures, the first: {}", failures.len(), failures[0]);
    }
    Ok(())
}
