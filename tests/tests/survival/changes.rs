//! A thousand changes of one Service's endpoints under new connections.
//!
//! Six backends rotate: each step adds one, begins to drain one, and removes one that began to drain two steps
//! earlier, once every connection from its time in the set has ended. A connection to an endpoint that is removed
//! ends with a RST by design; such a loss would be caused by the test itself.

use crate::clients::{Answer, Clients};
use crate::membership::Membership;
use crate::stage::{Stage, TARGET, WEB, service, vip};
use anyhow::{Context, Result, ensure};
use lb_common::{Active, Proto};
use lb_tests::world::{Endpoint, Family, Layout, NODE_NAME, Pod, Tap};
use lb_userspace::dataplane::Kernel;
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::dataplane::pins::Pins;
use lb_userspace::model::Model;
use lb_userspace::objects::name::ServicePortName;
use lb_userspace::plan::{Limits, Planner};
use lb_userspace::source::manifests;
use lb_userspace::tables::plane::Plane;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

const CHANGES: u64 = 1_000;
const BACKENDS: usize = 6;
/// The number of steps that a backend is in the set; after them it drains.
const IN: usize = 3;
const DRAINING: usize = 2;
/// Packets for which a backend was chosen just before a change are still in the node's queues just after the change.
const QUEUES: Duration = Duration::from_millis(25);
const LIMIT: Duration = Duration::from_secs(10);

/// The state of each backend after a step.
struct Round<'a> {
    pods: &'a [Pod],
    step: usize,
}

impl<'a> Round<'a> {
    /// The backend that came in this many steps ago.
    fn aged(&self, steps: usize) -> &'a Pod {
        &self.pods[(self.step + self.pods.len() - steps) % self.pods.len()]
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        let ready = (0..IN).map(|age| Endpoint::from(self.aged(age)));
        let draining = (IN..IN + DRAINING).map(|age| Endpoint::from(self.aged(age)).terminating());
        ready.chain(draining).collect()
    }

    fn entered(&self) -> &'a Pod {
        self.aged(0)
    }

    fn drained(&self) -> &'a Pod {
        self.aged(IN)
    }

    fn gone(&self) -> &'a Pod {
        self.aged(IN + DRAINING)
    }
}

/// The changes as seen in the kernel's tables.
struct Watched {
    maps: Maps,
    /// The service ids of `web`'s TCP port, one for each family.
    services: Vec<u32>,
}

impl Watched {
    fn new(stage: &Stage) -> Result<Self> {
        let names = stage.tables()?.names;
        let is_web = |name: &lb_common::ServiceName| {
            ServicePortName::from_table(name).is_some_and(|port| &*port.name == "web")
                && name.proto == Proto::Tcp.number()
        };
        let services: Vec<_> = names.iter().filter(|(_, name)| is_web(name)).map(|(id, _)| *id).collect();
        ensure!(services.len() == 2, "one service id for each family: {services:?}");
        Ok(Self { maps: stage.maps()?, services })
    }

    fn versions(&self) -> Vec<u64> {
        self.services.iter().map(|id| Active(self.maps.services.get(*id).active).version()).collect()
    }

    /// The number of backends in use by these services.
    fn in_use(&self, limit: u32) -> usize {
        (0..limit)
            .map(|id| self.maps.backends.get(id))
            .filter(|b| !b.is_free() && self.services.contains(&b.service))
            .count()
    }

    /// Waits until every family has flipped since then and the removed backend is retired.
    fn wait_for_flip(&self, since: &[u64]) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let expected = self.services.len() * (IN + DRAINING);
        loop {
            let flipped = self.versions().iter().zip(since).all(|(now, before)| now > before);
            // This world is small, so all its ids are low.
            if flipped && self.in_use(256) == expected {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "not applied: {since:?}, {:?}, {}",
                self.versions(),
                self.in_use(256)
            );
            sleep(Duration::from_micros(500));
        }
    }
}

/// The results of the changes.
struct Outcome {
    answers: Vec<Answer>,
    membership: Membership,
}

/// Makes the changes through `apply`, which returns when they are planned at the latest, and checks everything except
/// the choices themselves.
fn change(stage: &Stage, mut apply: impl FnMut(&Stage, Vec<Endpoint>) -> Result<()>) -> Result<Outcome> {
    let pods = stage.world.backends();
    let taps: BTreeMap<&str, Tap> =
        pods.iter().map(|pod| Ok((pod.name.as_str(), Tap::on(pod)?))).collect::<Result<_>>()?;
    let mut membership = Membership::default();
    // The membership as in the manifest of step IN + DRAINING - 1.
    let first = IN + DRAINING - 1;
    let now = Instant::now();
    (0..IN).for_each(|age| membership.enter(&Round { pods, step: first }.aged(age).name, now));
    let watched = Watched::new(stage)?;
    let began_with = watched.versions();

    let targets = Family::ALL.map(|family| vip(WEB, family, Proto::Tcp));
    let clients = Clients::start(&stage.world.client().netns, &targets, 4, Duration::from_millis(2));
    let began = Instant::now();
    // The moment at which each backend began to drain, by its name.
    let mut drained: BTreeMap<&str, Instant> = BTreeMap::new();
    let mut quiet = 0;
    let mut cleared: Option<&Pod> = None;
    for step in first + 1..=first + CHANGES as usize {
        let round = Round { pods, step };
        if let Some(since) = drained.get(round.gone().name.as_str()) {
            clients.wait_for_those_before(*since);
        }
        if let Some(pod) = cleared.take() {
            // The backend was away until now.
            quiet += 1;
            let strays: Vec<_> = taps[pod.name.as_str()].packets();
            let strays: Vec<_> = strays.iter().filter(|packet| is_for(packet, pod)).collect();
            assert!(strays.is_empty(), "{} got a packet while it was away: {:?}", pod.name, strays[0]);
        }
        let before = watched.versions();
        membership.enter(&round.entered().name, Instant::now());
        apply(stage, round.endpoints())?;
        watched.wait_for_flip(&before)?;
        let now = Instant::now();
        membership.leave(&round.drained().name, now);
        drained.insert(&round.drained().name, now);
        taps.values().for_each(Tap::clear);
        if step % 7 == 0 {
            // The check takes time, so it is done only in some steps.
            sleep(QUEUES);
            taps[round.gone().name.as_str()].clear();
            sleep(QUEUES);
            cleared = Some(round.gone());
        }
    }
    let took = began.elapsed();
    let flips: Vec<_> =
        watched.versions().iter().zip(&began_with).map(|(now, before)| now - before).collect();
    let (answers, failures) = clients.stop();
    let rate = answers.len() as f64 / took.as_secs_f64();
    println!("{CHANGES} changes in {took:.1?}, flips {flips:?}, {} connections ({rate:.0}/s)", answers.len());
    assert!(failures.is_empty(), "{} connections lost, the first: {}", failures.len(), failures[0]);
    assert!(flips.iter().all(|flips| *flips >= CHANGES), "{flips:?} of {CHANGES} changes reached the tables");
    assert!(quiet > 50, "a backend that was away was checked only {quiet} times");
    Ok(Outcome { answers, membership })
}

/// Whether the packet is from a client to this pod's server. RSTs are the client's own: its kernel answers a server
/// that was removed in the middle of its last FIN.
fn is_for(packet: &lb_tests::packet::Packet, pod: &Pod) -> bool {
    let to = packet.to();
    let is_rst = packet.tcp().is_some_and(|tcp| tcp.flags & lb_tests::packet::Tcp::RST != 0);
    (to == pod.at(Family::V4, TARGET) || to == pod.at(Family::V6, TARGET)) && !is_rst
}

/// Each connection went to a backend that was in the set at some time between its SYN and its answer, and each visit
/// at a backend is one of these connections.
fn check_choices(stage: &Stage, outcome: &Outcome) {
    let Outcome { answers, membership } = outcome;
    let wrong: Vec<_> = answers
        .iter()
        .filter(|answer| !membership.allows(&answer.backend, answer.began, answer.ended))
        .collect();
    assert!(wrong.is_empty(), "{} connections to a backend outside of the set: {:?}", wrong.len(), wrong[0]);
    let met = answers.iter().filter(|a| !membership.is_constant(&a.backend, a.began, a.ended)).count();
    let mut by_local: BTreeMap<SocketAddr, Vec<&Answer>> = BTreeMap::new();
    answers.iter().for_each(|answer| by_local.entry(answer.local).or_default().push(answer));
    let mut visits = 0;
    for echo in &stage.echoes {
        for visit in echo.visits().iter().filter(|visit| visit.proto == Proto::Tcp) {
            visits += 1;
            let is_this = |answer: &&&Answer| {
                answer.backend == echo.name() && answer.began <= visit.at && visit.at <= answer.ended
            };
            let known = by_local.get(&visit.from).and_then(|answers| answers.iter().find(is_this));
            assert!(known.is_some(), "{} was visited by an unknown client: {visit:?}", echo.name());
        }
    }
    println!("{visits} visits, {met} connections met a change");
    assert_eq!(visits, answers.len(), "as many visits as connections");
    let seen = |pod: &&Pod| answers.iter().any(|answer| answer.backend == pod.name);
    assert_eq!(stage.world.backends().iter().filter(seen).count(), BACKENDS);
}

fn prepared() -> Result<Stage> {
    let stage = Stage::new(Layout::routed().with_backends(BACKENDS))?;
    let round = Round { pods: stage.world.backends(), step: IN + DRAINING - 1 };
    stage.write(&service("web", WEB), round.endpoints())?;
    Ok(stage)
}

#[test]
fn a_thousand_edits_lose_no_connection() -> Result<()> {
    let stage = prepared()?;
    let mut agent = stage.world.start_agent(&[])?;
    let web = service("web", WEB);
    let outcome = change(&stage, |stage, endpoints| stage.write(&web, endpoints))?;
    agent.terminate()?;
    check_choices(&stage, &outcome);
    Ok(())
}

/// The agent's own parts, without the 50 ms that the agent waits for an editor to finish.
struct Direct {
    model: Model,
    planner: Planner,
    kernel: Kernel,
}

impl Direct {
    fn new(stage: &Stage) -> Result<Self> {
        let mut kernel = Kernel::new(Maps::open(&Pins::new(&stage.world.folder().pins()), true)?)?;
        let planner = Planner::restore(kernel.read()?, Limits::default());
        let mut direct = Self { model: Model::new(NODE_NAME), planner, kernel };
        let operations = direct.settle(stage)?;
        ensure!(operations == 0, "{operations} operations to continue where the agent stopped");
        Ok(direct)
    }

    fn settle(&mut self, stage: &Stage) -> Result<usize> {
        for event in manifests::load_dir(stage.world.manifests().folder())? {
            self.model.apply(event);
        }
        let mut desired = self.model.desired();
        let mut operations = 0;
        loop {
            let plan = self.planner.plan(std::mem::take(&mut desired));
            operations += plan.ops.len();
            self.kernel.apply(&plan.ops).context("apply")?;
            if let Some(batch) = self.planner.pending() {
                self.kernel.grace()?;
                self.planner.reclaim(batch);
            }
            if !self.planner.deferred() {
                return Ok(operations);
            }
        }
    }
}

#[test]
fn a_thousand_changes_at_full_speed_lose_no_connection() -> Result<()> {
    let stage = prepared()?;
    stage.world.start_agent(&[])?.terminate()?;
    let mut direct = Direct::new(&stage)?;
    let web = service("web", WEB);
    let outcome = change(&stage, |stage, endpoints| {
        stage.write(&web, endpoints)?;
        direct.settle(stage).map(drop)
    })?;
    check_choices(&stage, &outcome);
    Ok(())
}
