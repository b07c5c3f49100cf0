//! Sends steady requests to every Service and, each second, draws a table of the backends that answer.

use crate::services::{self, Asker, Frontend};
use crate::stage::Stage;
use crate::stop;
use crate::table::{self, Table};
use anyhow::Result;
use lb_tests::load::{Requests, Running};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stdout};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Requests per second to each frontend.
const RATE: u32 = 40;
const PERIOD: Duration = Duration::from_secs(1);
/// In a file or a pipe, an occasional table is enough.
const PERIOD_UNSEEN: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Shows live counters until asked to stop.
pub fn show(stage: &Stage) -> Result<()> {
    println!("{}", stage.what_to_type());
    println!("Requests per second, {RATE} to each address; Ctrl-C ends the demo.\n");
    let (mut screen, mut clients) = (Screen::default(), Clients::default());
    while !stop::is_asked() {
        clients.follow(stage, &services::frontends(stage, Asker::Pod)?);
        if wait(screen.period()) {
            break;
        }
        screen.draw(&clients.table(&stage.server_names()))?;
    }
    Ok(())
}

/// Waits; returns true if the demo was asked to stop meanwhile.
fn wait(period: Duration) -> bool {
    let end = Instant::now() + period;
    while Instant::now() < end && !stop::is_asked() {
        sleep(Duration::from_millis(50));
    }
    stop::is_asked()
}

/// A client for each frontend.
#[derive(Default)]
struct Clients {
    running: BTreeMap<Frontend, (Running, Instant)>,
}

impl Clients {
    /// Starts clients for new frontends, and stops those of removed ones. The client of a frontend continues if only
    /// the set of backends has changed.
    fn follow(&mut self, stage: &Stage, frontends: &[Frontend]) {
        let mut before = std::mem::take(&mut self.running);
        for frontend in frontends {
            let same = |old: &&Frontend| old.address == frontend.address && old.proto == frontend.proto;
            let old = before.keys().find(same).cloned();
            let client = old.and_then(|old| before.remove(&old)).unwrap_or_else(|| {
                let requests = Requests::new(frontend.proto, frontend.address).during(LONG).rate(RATE);
                (requests.workers(1).start(&stage.world.client().netns), Instant::now())
            });
            self.running.insert(frontend.clone(), client);
        }
    }

    /// What happened since the last table, per second.
    fn table(&mut self, servers: &[String]) -> Table {
        let mut table = Table::of_requests(servers);
        for (frontend, (running, since)) in &mut self.running {
            let report = running.take();
            let elapsed = std::mem::replace(since, Instant::now()).elapsed();
            let per_second = |count| (count as f64 / elapsed.as_secs_f64()).round() as u64;
            table.row(table::requests(frontend, &report, servers, per_second));
        }
        table
    }
}

/// The height of the last table, so that the next one is drawn over it.
#[derive(Default)]
struct Screen {
    lines: usize,
}

impl Screen {
    fn period(&self) -> Duration {
        if stdout().is_terminal() { PERIOD } else { PERIOD_UNSEEN }
    }

    fn draw(&mut self, table: &Table) -> Result<()> {
        let mut out = stdout().lock();
        if out.is_terminal() {
            if self.lines > 0 {
                // Move up to the first line of the last table, and clear from there.
                write!(out, "\x1b[{}A\x1b[J", self.lines)?;
            }
            self.lines = table.lines();
            // A line that is too long is cut, not wrapped, so that the count of lines is right.
            write!(out, "\x1b[?7l{table}\x1b[?7h")?;
        } else {
            writeln!(out, "{table}")?;
        }
        Ok(out.flush()?)
    }
}
