//! The first rounds: some requests to every frontend, and the servers that answered.

use crate::services::{self, Asker, Frontend};
use crate::stage::Stage;
use crate::stop;
use crate::table::{self, Table};
use crate::verdict;
use anyhow::{Result, ensure};
use lb_tests::load::{Report, Requests};
use std::fmt;

const REQUESTS: u64 = 300;

/// The result of the requests to each frontend.
pub struct Outcome {
    rows: Vec<(Frontend, Report)>,
    servers: Vec<String>,
}

pub fn round(stage: &Stage, asker: Asker) -> Result<Outcome> {
    let frontends = services::frontends(stage, asker)?;
    let is_served = frontends.iter().any(|frontend| !frontend.servers.is_empty());
    ensure!(is_served, "no Service with endpoints is programmed; see `lb services`");
    println!("\n{REQUESTS} requests to each of {} addresses, from {asker}:\n", frontends.len());
    let mut rows = Vec::new();
    for frontend in frontends {
        let requests = Requests::new(frontend.proto, frontend.address).count(REQUESTS).workers(2);
        let report = requests.run(asker.netns(stage));
        rows.push((frontend, report));
        if stop::is_asked() {
            break;
        }
    }
    Ok(Outcome { rows, servers: stage.server_names() })
}

impl Outcome {
    /// Returns true if every request was answered by a server of the right Service, or refused if the Service has none.
    pub fn is_clean(&self) -> bool {
        self.rows.iter().all(|(frontend, report)| verdict::wrong(frontend, report).is_none())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut table = Table::of_requests(&self.servers);
        for (frontend, report) in &self.rows {
            table.row(table::requests(frontend, report, &self.servers, |count| count));
        }
        write!(f, "{table}")?;
        for wrong in self.rows.iter().filter_map(|(frontend, report)| verdict::wrong(frontend, report)) {
            writeln!(f, "FAILED: {wrong}")?;
        }
        if self.is_clean() {
            let answered: u64 = self.rows.iter().map(|(_, report)| report.answered()).sum();
            let refused: usize = self.rows.iter().map(|(_, report)| report.failures.len()).sum();
            write!(f, "\nAll {answered} requests were answered by a backend of the right Service")?;
            if refused > 0 {
                write!(f, "; {refused} were refused because their Service has none")?;
            }
            writeln!(f, ".")?;
        }
        Ok(())
    }
}
