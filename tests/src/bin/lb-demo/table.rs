//! Text in columns: the first three aligned to the left, figures to the right.

use crate::services::Frontend;
use crate::verdict;
use lb_tests::load::Report;
use std::fmt;
use std::time::Duration;

/// Service, kind and address.
const LEFT_COLUMNS: usize = 3;

pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with the header for the cells of [`requests`].
    pub fn of_requests(servers: &[String]) -> Self {
        let mut head: Vec<String> = ["SERVICE", "KIND", "FRONTEND"].map(String::from).into();
        head.extend(servers.iter().map(|name| name.to_uppercase()));
        head.extend(["REFUSED", "FAILED", "P50", "P99"].map(String::from));
        Self { rows: vec![head] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub fn lines(&self) -> usize {
        self.rows.len()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column| self.rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
        let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
        for row in &self.rows {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                if column < LEFT_COLUMNS {
                    write!(f, "{gap}{cell:<width$}")?;
                } else {
                    write!(f, "{gap}{cell:>width$}")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// The cells of a frontend: answers of each server, refused requests, failed requests, and latencies.
pub fn requests(
    frontend: &Frontend,
    report: &Report,
    servers: &[String],
    figure: impl Fn(u64) -> u64,
) -> Vec<String> {
    let kind = if frontend.is_sticky { format!("{}, sticky", frontend.kind) } else { frontend.kind.clone() };
    let mut cells = vec![frontend.service.clone(), kind, format!("{}/{}", frontend.address, frontend.proto)];
    cells.extend(servers.iter().map(|name| count(report.answers.get(name).map(|count| figure(*count)))));
    let (refused, failed) = verdict::failures(report);
    cells.push(count((refused > 0).then(|| figure(refused as u64))));
    cells.push(failed.to_string());
    cells.extend([0.5, 0.99].map(|share| latency(report.quantile(share))));
    cells
}

/// A figure, or a dot if there is none.
fn count(count: Option<u64>) -> String {
    count.map_or(".".into(), |count| count.to_string())
}

fn latency(latency: Option<Duration>) -> String {
    latency.map_or(".".into(), |latency| format!("{} us", latency.as_micros()))
}
