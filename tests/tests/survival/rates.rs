//! SIGKILL, restart and upgrade under many connections, with counts.

use crate::stage::{SHOP, Stage, WEB, operations, vip};
use crate::upgrade::{tags, upgrade};
use anyhow::Result;
use lb_common::Proto;
use lb_tests::load::{Failure, HeldTcp, Kind, Pinger, Report, Requests, Running};
use lb_tests::variant::Variant;
use lb_tests::world::{Agent, Family, Layout, lb_binary};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// New connections offered per second, over two Services in two families.
const RATE: u32 = 2_000;
/// Connections that are held open.
const HELD: usize = 200;
const ROUNDS: usize = 4;
/// Duration of the traffic before and after the event of a round.
const PAUSE: Duration = Duration::from_millis(300);
const ARGS: [&str; 2] = ["--attach", "tcx"];

/// New connections and held connections.
struct Traffic {
    began: Instant,
    short: Vec<Running>,
    held: Vec<Pinger<HeldTcp>>,
}

impl Traffic {
    fn start(stage: &Stage) -> Result<Self> {
        let client = &stage.world.client().netns;
        let targets = Family::ALL.into_iter().flat_map(|family| [(WEB, family), (SHOP, family)]);
        let targets: Vec<_> = targets.map(|(host, family)| vip(host, family, Proto::Tcp)).collect();
        let each = targets.len();
        let held = |target| {
            let held = HeldTcp::open(client, target, HELD / each)?;
            Ok(Pinger::start(held, Duration::from_millis(5)))
        };
        let held = targets.iter().copied().map(held).collect::<Result<Vec<_>>>()?;
        // A machine that is busy with other work answers slowly; a slow answer is not a failure.
        let requests = |target| {
            let requests = Requests::tcp(target).rate(RATE / each as u32).workers(8);
            requests.during(Duration::from_secs(300)).timeout(Duration::from_secs(20)).start(client)
        };
        Ok(Self { began: Instant::now(), short: targets.into_iter().map(requests).collect(), held })
    }

    /// Stops, prints the counts, and panics if a request failed.
    fn assert_unfelt(self, what: &str) {
        let (mut report, mut failures, mut pings) = (Report::default(), Vec::new(), 0);
        for running in self.short {
            report.merge(running.stop());
        }
        let seconds = self.began.elapsed().as_secs_f64();
        for pinger in self.held {
            let rounds = pinger.rounds();
            let (held, failed) = pinger.stop();
            pings += rounds * held.connections.len();
            failures.extend(failed);
        }
        let is_reset =
            |failure: &&Failure| matches!(failure.kind, Kind::Reset | Kind::Refused | Kind::Closed);
        let resets = report.failures.iter().chain(&failures).filter(is_reset).count();
        println!(
            "{what}: {} new connections in {seconds:.1} s ({:.0}/s of {RATE}/s offered), {} failed; {HELD} held \
             connections asked {pings} times, {} failed; {resets} reset",
            report.requests(),
            report.requests() as f64 / seconds,
            report.failures.len(),
            failures.len(),
        );
        assert!(failures.is_empty(), "the first: {}", failures[0]);
        report.assert_clean();
        assert!(pings >= 2 * HELD, "held connections must be asked before and after: {pings}");
    }
}

/// In each round `turn` ends the agent and starts another one: traffic does not notice, and no table is written.
fn check_rounds(
    stage: &Stage,
    agent: &mut Agent,
    what: &str,
    mut turn: impl FnMut(usize, &mut Agent) -> Result<()>,
) -> Result<()> {
    let traffic = Traffic::start(stage)?;
    let mut written = 0;
    for round in 0..ROUNDS {
        sleep(PAUSE);
        turn(round, agent)?;
        let operations = operations(agent)?;
        if operations > 0 {
            println!("{what}: {operations} map operations\n{}", agent.log());
        }
        written += operations;
    }
    sleep(PAUSE);
    traffic.assert_unfelt(&format!("{ROUNDS} x {what}, {written} map operations"));
    assert_eq!(written, 0);
    Ok(())
}

fn check_kills(stage: &Stage, agent: &mut Agent) -> Result<()> {
    check_rounds(stage, agent, "kill -9", |_, agent| {
        agent.kill()?;
        sleep(PAUSE);
        agent.start_again()
    })
}

fn check_restarts(stage: &Stage, agent: &mut Agent) -> Result<()> {
    check_rounds(stage, agent, "restart", |_, agent| {
        agent.terminate()?;
        agent.start_again()
    })
}

fn check_upgrades(stage: &Stage, agent: &mut Agent) -> Result<()> {
    let (variant, original) = (Variant::with_other_programs()?, lb_binary()?);
    let mut before = tags(stage, "tcx")?;
    check_rounds(stage, agent, "upgrade to other programs", |round, agent| {
        let binary = if round % 2 == 0 { variant.path() } else { &original };
        *agent = upgrade(stage, agent, binary, &ARGS)?;
        let now = tags(stage, "tcx")?;
        assert!(now.is_disjoint(&before), "other programs: {before:x?}, {now:x?}");
        before = now;
        Ok(())
    })
}

#[test]
fn sigkill_is_not_felt() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    check_kills(&stage, &mut stage.start_agent(&ARGS)?)
}

#[test]
fn a_restart_is_not_felt() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    check_restarts(&stage, &mut stage.start_agent(&ARGS)?)
}

#[test]
fn an_upgrade_is_not_felt() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    check_upgrades(&stage, &mut stage.start_agent(&ARGS)?)
}

/// The same tests when each start lists the objects of a real API server.
#[test]
fn none_of_these_is_felt_if_the_api_is_the_source() -> Result<()> {
    let stage = Stage::on_api(Layout::routed())?;
    let mut agent = stage.start_agent(&ARGS)?;
    check_kills(&stage, &mut agent)?;
    check_restarts(&stage, &mut agent)?;
    check_upgrades(&stage, &mut agent)
}
