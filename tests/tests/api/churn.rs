//! Random changes and faults: at the end the tables equal those of a fresh agent, and no Service was ever without the
//! backends that it had.
//!
//! `LB_CHURN_SECONDS` sets the duration, `LB_CHURN_SEED` selects another history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_tests::cluster::{Cluster, Door};
use lb_tests::load::Requests;
use lb_tests::world::{Agent, Endpoint, NODE_NAME, Service, World};
use serde_json::Value;

use crate::stage::Stage;

/// Services with a lower number are never deleted and always have a ready endpoint.
const STEADY: usize = 10;
const SERVICES: usize = 30;
/// The pause between two looks at the tables.
const LOOK: Duration = Duration::from_millis(200);
/// The time that the tables have at the end to contain everything that was written.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn churn_with_faults_leaves_what_a_fresh_agent_makes() -> Result<()> {
    let time = Duration::from_secs(number("LB_CHURN_SECONDS")?.unwrap_or(60));
    let seed = number("LB_CHURN_SEED")?.unwrap_or(1);
    println!("LB_CHURN_SECONDS={} LB_CHURN_SEED={seed}", time.as_secs());

    let stage = Stage::new()?;
    let mut cluster = Cluster::alone()?;
    let door = cluster.door(stage.world.node())?;
    stage.begin(&cluster, &[1, 2, 3])?;
    let mut churn =
        Churn { random: fastrand::Rng::with_seed(seed), services: BTreeMap::new(), web: vec![1, 2, 3] };
    for number in 0..SERVICES {
        churn.change(&cluster, number)?;
    }
    let kubeconfig = cluster.kubeconfig_at("admin", door.address())?;
    let mut agent = stage.world.start_agent_on_api(&kubeconfig, &[])?;
    stage.wait_for(&[1, 2, 3])?;

    let ended = AtomicBool::new(false);
    let requests = Requests::udp(stage.vip()).rate(200).during(time * 2).start(&stage.world.client().netns);
    let (changes, faults) = std::thread::scope(|scope| -> Result<_> {
        let look = scope.spawn(|| watch(&stage.world, &ended));
        let outcome = churn.run(time, &stage, &mut cluster, &door, &mut agent);
        ended.store(true, Relaxed);
        let looks = look.join().expect("it does not panic")?;
        println!("{looks} looks at the tables found no steady Service without endpoints");
        outcome
    })?;
    let report = requests.stop();
    println!("{changes} changes; {faults:?}; {} requests", report.requests());
    report.assert_clean();

    // This Service is the last object of each kind to be written. Earlier changes may be applied after it: a service
    // waits for a grace period, and slices of the other family for their turn.
    cluster.apply(&Service::new("last").vips(9).tcp(80, 8080).endpoints([stage.world.backend(1)]).yaml())?;
    let deadline = Instant::now() + LIMIT;
    while services(&stage.world)?.iter().filter(|s| s["name"] == "last" && has_endpoints(s)).count() < 2 {
        ensure!(Instant::now() < deadline, "the last change is not in the tables\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let tables = || -> Result<_> { Ok((services(&stage.world)?, backends(&stage.world)?)) };
    let mut left = tables()?;
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = tables()?;
        if now == left {
            break;
        }
        ensure!(Instant::now() < deadline, "the tables never stop changing\n{}", agent.log());
        left = now;
    }
    agent.terminate()?;
    stage.world.lb(&["cleanup"])?;
    let _fresh = stage.world.start_agent_on_api(&kubeconfig, &[])?;
    let fresh = (services(&stage.world)?, backends(&stage.world)?);
    assert_eq!(left.0, fresh.0, "services; LB_CHURN_SEED={seed}");
    assert_eq!(left.1, fresh.1, "backends; LB_CHURN_SEED={seed}");
    Ok(())
}

struct Churn {
    random: fastrand::Rng,
    /// The Services that exist, and whether their endpoints are in the second of two slices.
    services: BTreeMap<usize, bool>,
    /// The ready backends of `web`.
    web: Vec<usize>,
}

impl Churn {
    fn run(
        &mut self,
        time: Duration,
        stage: &Stage,
        cluster: &mut Cluster,
        door: &Door,
        agent: &mut Agent,
    ) -> Result<(usize, BTreeMap<&'static str, usize>)> {
        let mut changes = 0;
        let mut faults: BTreeMap<&str, usize> = BTreeMap::new();
        let end = Instant::now() + time;
        let mut next_fault = Instant::now() + Duration::from_secs(1);
        let mut restarts = 1 + time.as_secs() / 60;
        while Instant::now() < end {
            match self.random.u32(0..4) {
                0 => self.change_web(stage, cluster)?,
                _ => {
                    let number = self.random.usize(0..SERVICES);
                    self.change(cluster, number)?;
                }
            }
            changes += 1;
            // The next change comes after a pause, or in a storm.
            if self.random.u32(0..4) == 0 {
                std::thread::sleep(Duration::from_millis(self.random.u64(0..200)));
            }
            if Instant::now() < next_fault {
                continue;
            }
            door.open();
            door.delay(Duration::ZERO);
            let fault = match self.random.u32(0..12) {
                0..3 => {
                    door.cut();
                    "cut"
                }
                3..6 => {
                    door.shut();
                    "shut"
                }
                6..8 => {
                    door.stall();
                    "stalled"
                }
                8..10 => {
                    door.delay(Duration::from_millis(self.random.u64(10..300)));
                    "slowed"
                }
                10 if restarts > 0 => {
                    restarts -= 1;
                    cluster.kill_apiserver()?;
                    std::thread::sleep(Duration::from_millis(self.random.u64(0..2_000)));
                    cluster.start_apiserver()?;
                    "server killed"
                }
                _ => {
                    agent.kill()?;
                    std::thread::sleep(Duration::from_millis(self.random.u64(0..1_000)));
                    agent.spawn()?;
                    "agent killed"
                }
            };
            *faults.entry(fault).or_default() += 1;
            next_fault = Instant::now() + Duration::from_millis(self.random.u64(500..4_000));
        }
        door.open();
        door.delay(Duration::ZERO);
        agent.wait_until_ready()?;
        Ok((changes, faults))
    }

    /// Replaces the endpoints of a Service, moves them to its other slice, or deletes or creates the Service.
    fn change(&mut self, cluster: &Cluster, number: usize) -> Result<()> {
        let name = format!("c{number}");
        let is_steady = number < STEADY;
        if !is_steady && self.services.contains_key(&number) && self.random.u32(0..4) == 0 {
            self.services.remove(&number);
            cluster.delete("v1", "Service", "default", &name)?;
            for slice in ["ipv4", "ipv6", "ipv4-b", "ipv6-b"] {
                // The second slices may never have existed.
                let gone = cluster.delete(
                    "discovery.k8s.io/v1",
                    "EndpointSlice",
                    "default",
                    &format!("{name}-{slice}"),
                );
                if !slice.ends_with("-b") {
                    gone?;
                }
            }
            return Ok(());
        }
        let fewest = if is_steady { 1 } else { 0 };
        let count = self.random.usize(fewest..5);
        // No address occurs twice in a slice: of two copies the last one would count, even if it is not ready.
        let hosts: BTreeSet<u8> = (0..count).map(|_| self.random.u8(1..21)).collect();
        let mut endpoints: Vec<Endpoint> = hosts.into_iter().map(|host| self.endpoint(host)).collect();
        if let Some(first) = endpoints.first_mut().filter(|_| is_steady) {
            first.ready = true;
            first.serving = true;
            first.terminating = false;
        }
        let host = u8::try_from(100 + number).context("a host number")?;
        let service = Service::new(&name).vips(host).tcp(80, 8080);
        let yaml = |endpoints: Vec<Endpoint>| service.clone().endpoints(endpoints).yaml();
        let is_in_second = self.services.get(&number).copied();
        let moves = is_in_second.is_some() && self.random.u32(0..5) == 0;
        let goes_to_second = is_in_second.unwrap_or(false) ^ moves;
        // The EndpointSlice controller works in the same order: it adds to the new slice first and then empties the
        // old one.
        cluster.apply(&in_slice(&yaml(endpoints), goes_to_second))?;
        if moves {
            cluster.apply(&in_slice(&yaml(Vec::new()), !goes_to_second))?;
        }
        self.services.insert(number, goes_to_second);
        Ok(())
    }

    fn endpoint(&mut self, host: u8) -> Endpoint {
        let v6 = std::net::Ipv6Addr::new(0xfd00, 0x10, 0x244, 9, 0, 0, 0, host.into());
        let terminating = self.random.u32(0..8) == 0;
        let ready = !terminating && self.random.u32(0..8) > 0;
        Endpoint {
            pod: format!("p{host}"),
            addresses: vec![[10, 244, 9, host].into(), v6.into()],
            node: if self.random.bool() { NODE_NAME.into() } else { "node-2".into() },
            ready,
            serving: ready || self.random.bool(),
            terminating,
        }
    }

    /// Makes some of the real backends ready. The previously ready ones terminate and are gone with the next change.
    fn change_web(&mut self, stage: &Stage, cluster: &Cluster) -> Result<()> {
        let first = self.random.usize(1..4);
        let ready: Vec<usize> = (1..4).filter(|number| *number == first || self.random.bool()).collect();
        let leaving = self.web.iter().filter(|number| !ready.contains(number));
        let backend = |number: &usize| Endpoint::from(stage.world.backend(*number));
        let endpoints = ready.iter().map(backend).chain(leaving.map(|number| backend(number).terminating()));
        cluster.apply(&stage.web.clone().endpoints(endpoints).yaml())?;
        self.web = ready;
        Ok(())
    }
}

/// The same endpoints, in slices with other names if `second`.
fn in_slice(yaml: &str, second: bool) -> String {
    if !second {
        return yaml.to_owned();
    }
    yaml.replace("-ipv4\n", "-ipv4-b\n").replace("-ipv6\n", "-ipv6-b\n")
}

/// Looks at the tables until the end and returns the number of looks.
fn watch(world: &World, ended: &AtomicBool) -> Result<usize> {
    let mut looks = 0;
    while !ended.load(Relaxed) {
        let mut without = empty(world)?;
        // Tables that are read while they are written may show a slot that already belongs to another service.
        for _ in 0..3 {
            if !without.is_empty() {
                let again = empty(world)?;
                without.retain(|name| again.contains(name));
            }
        }
        ensure!(without.is_empty(), "without endpoints: {without:?}");
        looks += 1;
        std::thread::sleep(LOOK);
    }
    Ok(looks)
}

/// The steady Services for which the tables have no endpoints.
fn empty(world: &World) -> Result<Vec<String>> {
    let services = services(world)?;
    let steady = (0..STEADY).map(|number| format!("c{number}")).chain(["web".to_owned()]);
    Ok(steady
        .filter(|name| {
            let mut found = services.iter().filter(|service| service["name"] == name.as_str()).peekable();
            found.peek().is_none() || !found.all(has_endpoints)
        })
        .collect())
}

fn has_endpoints(service: &Value) -> bool {
    service["clusterEndpoints"].as_array().is_some_and(|endpoints| !endpoints.is_empty())
}

fn services(world: &World) -> Result<Vec<Value>> {
    Ok(serde_json::from_str(&world.lb(&["services", "-o", "json"])?)?)
}

/// The backends without the fields that depend on history.
fn backends(world: &World) -> Result<Vec<Value>> {
    let mut backends: Vec<Value> = serde_json::from_str(&world.lb(&["backends", "-o", "json"])?)?;
    for backend in &mut backends {
        let fields = backend.as_object_mut().context("a backend is an object")?;
        fields.remove("id");
        fields.remove("generation");
    }
    Ok(backends)
}

fn number(variable: &str) -> Result<Option<u64>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    Ok(Some(text.parse().with_context(|| format!("{variable}={text}"))?))
}
