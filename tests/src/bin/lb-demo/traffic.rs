//! The first round: some requests to every frontend, and who answered.

use crate::services::{self, Frontend};
use crate::stage::Stage;
use crate::stop;
use crate::table::{self, Table};
use anyhow::{Result, ensure};
use lb_tests::load::{Report, Requests};
use std::fmt;

const REQUESTS: u64 = 300;

/// What each frontend's requests came to.
pub struct Outcome {
    rows: Vec<(Frontend, Report)>,
    servers: Vec<String>,
}

pub fn first_round(stage: &Stage) -> Result<Outcome> {
    let frontends = services::frontends(stage)?;
    ensure!(!frontends.is_empty(), "no Service with endpoints is programmed; see `lb services`");
    println!("\n{REQUESTS} requests to each of {} addresses, from the client:\n", frontends.len());
    let mut rows = Vec::new();
    for frontend in frontends {
        let requests = Requests::new(frontend.proto, frontend.address).count(REQUESTS).workers(2);
        let report = requests.run(&stage.world.client().netns);
        rows.push((frontend, report));
        if stop::is_asked() {
            break;
        }
    }
    Ok(Outcome { rows, servers: stage.server_names() })
}

impl Outcome {
    /// Whether every request was answered by a server of the Service that was asked.
    pub fn is_clean(&self) -> bool {
        self.rows.iter().all(|(frontend, report)| report.failures.is_empty() && strays(frontend, report) == 0)
    }
}

/// Answers from servers that are not behind this frontend.
pub fn strays(frontend: &Frontend, report: &Report) -> u64 {
    report.answers.iter().filter(|(server, _)| !frontend.servers.contains(*server)).map(|(_, n)| n).sum()
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut head = vec!["SERVICE".to_string(), "FRONTEND".into()];
        head.extend(self.servers.iter().map(|name| name.to_uppercase()));
        head.extend(["FAILED", "P50", "P99"].map(String::from));
        let mut table = Table::new(head);
        for (frontend, report) in &self.rows {
            let mut cells =
                vec![frontend.service.clone(), format!("{}/{}", frontend.address, frontend.proto)];
            cells.extend(self.servers.iter().map(|name| table::count(report.answers.get(name))));
            cells.push(report.failures.len().to_string());
            cells.extend([0.5, 0.99].map(|share| table::latency(report.quantile(share))));
            table.row(cells);
        }
        write!(f, "{table}")?;
        for (frontend, report) in &self.rows {
            if let Some(failure) = report.failures.first() {
                writeln!(f, "FAILED: {failure} (the first of {})", report.failures.len())?;
            }
            if strays(frontend, report) > 0 {
                let (address, servers) = (frontend.address, &frontend.servers);
                writeln!(f, "FAILED: {address} was answered by {:?}, not only {servers:?}", report.answers)?;
            }
        }
        if self.is_clean() {
            let total: u64 = self.rows.iter().map(|(_, report)| report.answered()).sum();
            writeln!(f, "\nAll {total} requests were answered by a backend of the right Service.")?;
        }
        Ok(())
    }
}
