//! Measures all subjects with one population.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use lb_tests::cluster::Cluster;
use lb_tests::echo::Echo;
use lb_tests::world::{Layout, NODE_NAME, Pod, World, lb_binary};

use super::bare::Watch;
use super::options::Options;
use super::population::{self, LAST, PROBED, Size, TARGET};
use super::probe::Probe;
use super::results::{Burst, Change, Figures};
use super::subject::{Kind, Subject};
use super::usage;

/// The pods behind the probed Services at first, and those that take turns with them.
const FIRST: [&str; 2] = ["b1", "b2"];
const OTHERS: [&str; 2] = ["b3", "b4"];

const BURST: usize = 500;
const BURST_TIME: Duration = Duration::from_secs(1);
/// The number of concurrent requests of a burst.
const AT_ONCE: usize = 8;
/// The pause between two changes, in which all work is finished.
const PAUSE: Duration = Duration::from_millis(20);
/// kube-proxy writes its rules at most once a second; a single change must not wait for that.
const PAUSE_OF_KUBE_PROXY: Duration = Duration::from_millis(1_200);
const IDLE: Duration = Duration::from_secs(20);
/// The pause before memory is read, and between bursts.
const SETTLE: Duration = Duration::from_secs(2);
/// The pause before CPU time is read: work that is left when a change is in effect counts too.
const AFTER_EFFECT: Duration = Duration::from_millis(500);
/// How long to wait for the effect of a change.
const EFFECT_LIMIT: Duration = Duration::from_secs(60);

/// Measures everything with this many objects. After an error, `all` has the figures up to there.
pub fn measure(size: Size, options: &Options, all: &mut Vec<Figures>) -> Result<()> {
    let lb = options.lb.clone().map_or_else(lb_binary, Ok)?;
    let world = World::new(Layout::routed().with_backends(4))?.with_lb(&lb)?;
    let start = |pod: &Pod| Echo::start(&pod.netns, &pod.name, &[TARGET]);
    let _servers: Vec<_> = world.backends().iter().map(start).collect::<Result<_>>()?;
    let cluster = Cluster::in_world(&world)?;
    let began = Instant::now();
    population::create(&cluster, size, NODE_NAME, &addresses(&world, FIRST))?;
    eprintln!("{size}: objects written to the API server in {:.1?}", began.elapsed());

    let kubeconfig = cluster.kubeconfig("admin")?;
    let probe = Probe::start(&world.client().netns);
    let mut stage =
        Stage { world: &world, cluster: &cluster, probe, lb, kubeconfig, size, turn: 0, now: FIRST };

    all.push(stage.start_only(Kind::Bare, options.rounds)?);
    let (subject, mut lb) = stage.start_and_keep(Kind::Lb, options.rounds)?;
    let outcome = stage.measure_running(&subject, &mut lb, options.changes, options.rounds);
    all.push(lb);
    outcome?;
    drop(subject);
    all.push(stage.start_only(Kind::LbRestarted, options.rounds)?);
    stage.clean_up()?;
    if !options.without_kube_proxy {
        let (subject, mut proxy) = stage.start_and_keep(Kind::KubeProxy, 1)?;
        let outcome = stage.measure_running(&subject, &mut proxy, options.changes.div_ceil(100), 1);
        all.push(proxy);
        outcome?;
    }
    Ok(())
}

fn addresses(world: &World, names: [&str; 2]) -> Vec<Ipv4Addr> {
    names.map(|name| world.pod(name).v4).into()
}

struct Stage<'a> {
    world: &'a World,
    cluster: &'a Cluster,
    probe: Probe,
    lb: PathBuf,
    kubeconfig: PathBuf,
    size: Size,
    /// How often the many Services were changed, each time to new addresses.
    turn: usize,
    /// The pods behind the probed Service.
    now: [&'static str; 2],
}

impl Stage<'_> {
    /// Starts a subject so many times, and ends the last process too.
    fn start_only(&self, kind: Kind, rounds: usize) -> Result<Figures> {
        let (subject, figures) = self.start_and_keep(kind, rounds)?;
        drop(subject);
        Ok(figures)
    }

    /// Starts a subject so many times; the last process continues.
    fn start_and_keep(&self, kind: Kind, rounds: usize) -> Result<(Subject, Figures)> {
        let mut figures = Figures::new(kind, self.size);
        let mut last = None;
        for _ in 0..rounds.max(1) {
            drop(last.take());
            if kind == Kind::Lb {
                self.clean_up()?;
            }
            let mut subject = Subject::start(kind, self.world, &self.lb, &self.kubeconfig)?;
            figures.starts.push(subject.wait_until_ready(&self.probe)?);
            figures.start_cpu.push(usage::cpu(subject.pid())?);
            if kind != Kind::Bare {
                self.require_all(kind)?;
            }
            sleep(SETTLE);
            figures.memory.push(usage::memory(subject.pid())?);
            last = Some(subject);
        }
        eprintln!("{}: {}: started in {:.2?}", self.size, kind.name(), figures.starts);
        Ok((last.context("there is at least one round")?, figures))
    }

    /// Checks that the subject serves the probed and the last Service, and that `lb` has all Services in its tables.
    fn require_all(&self, kind: Kind) -> Result<()> {
        for (service, names) in [(PROBED, self.now), (LAST, FIRST)] {
            self.probe.ask(service, &names, EFFECT_LIMIT);
            self.probe.wait()?;
        }
        if kind != Kind::KubeProxy {
            let services = self.world.lb(&["services", "-o", "json"])?;
            let services: serde_json::Value = serde_json::from_str(&services)?;
            let count = services.as_array().map_or(0, Vec::len);
            // The two that are probed, and `default/kubernetes`.
            ensure!(count == self.size.services + 3, "{count} Service ports are in the tables");
        }
        Ok(())
    }

    fn clean_up(&self) -> Result<()> {
        self.world.lb(&["cleanup"]).map(drop)
    }

    fn measure_running(
        &mut self,
        subject: &Subject,
        figures: &mut Figures,
        changes: usize,
        bursts: usize,
    ) -> Result<()> {
        let what = format!("{}: {}", self.size, subject.kind.name());
        let pause = if subject.kind == Kind::KubeProxy { PAUSE_OF_KUBE_PROXY } else { PAUSE };
        let bare = Watch::start(self.world.node(), &self.kubeconfig)?;
        let before = usage::cpu(subject.pid())?;
        for _ in 0..changes {
            figures.changes.push(self.change(&bare).with_context(|| subject.log())?);
            sleep(pause);
        }
        figures.changes_cpu = usage::cpu(subject.pid())?.saturating_sub(before);
        drop(bare);
        eprintln!("{what}: {changes} changes done");
        for _ in 0..bursts.max(1) {
            sleep(SETTLE);
            figures.bursts.push(self.burst(subject).with_context(|| subject.log())?);
        }
        eprintln!("{what}: {:?}", figures.bursts);
        sleep(SETTLE);
        figures.after = Some(usage::memory(subject.pid())?);
        let before = usage::cpu(subject.pid())?;
        sleep(IDLE);
        figures.idle = Some((usage::cpu(subject.pid())?.saturating_sub(before), IDLE));
        Ok(())
    }

    /// Moves the probed Service to the other two servers, or back, and measures the change.
    fn change(&mut self, bare: &Watch) -> Result<Change> {
        let (accepted, effect) = self.swap()?;
        let seen = bare.seen.recv_timeout(EFFECT_LIMIT).context("the bare watch missed a change")?;
        Ok(Change::new(accepted, seen, effect))
    }

    /// Moves the probed Service. Returns when the API server had accepted the change, and when the first packet was
    /// sent that reached one of the other servers.
    fn swap(&mut self) -> Result<(Instant, Instant)> {
        self.now = if self.now == FIRST { OTHERS } else { FIRST };
        let to = addresses(self.world, self.now);
        self.probe.ask(PROBED, &self.now, EFFECT_LIMIT);
        let accepted = self.cluster.run(|client| async move {
            population::change_probed(&client, &to).await?;
            Ok(Instant::now())
        })?;
        Ok((accepted, self.probe.wait()?))
    }

    /// Changes 499 of the many Services within a second, and then the probed one.
    fn burst(&mut self, subject: &Subject) -> Result<Burst> {
        self.turn += 1;
        let (size, turn) = (self.size, self.turn);
        let before = usage::cpu(subject.pid())?;
        let began = Instant::now();
        self.cluster.run(move |client| async move {
            let changes = (0..BURST - 1).map(|number| {
                let (client, due) = (client.clone(), BURST_TIME * number as u32 / BURST as u32);
                async move {
                    tokio::time::sleep_until((began + due).into()).await;
                    population::change(&client, number, size, turn).await
                }
            });
            stream::iter(changes).buffered(AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
        })?;
        let (accepted, effect) = self.swap()?;
        sleep(AFTER_EFFECT);
        let cpu = usage::cpu(subject.pid())?.saturating_sub(before);
        Ok(Burst { written: accepted - began, effect: effect.saturating_duration_since(accepted), cpu })
    }
}
