//! The figures: medians, and ratios to the direct way in the same round.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::client::Figures;
use super::row::Row;
use super::way::Way;

/// The file of all measurements.
const FILE: &str = "data.json";

/// One measurement.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Number of other Services.
    pub services: usize,
    pub round: usize,
    pub row: Row,
    pub way: Way,
    #[serde(flatten)]
    pub figures: Figures,
}

/// One of the figures.
type Figure = fn(&Figures) -> f64;

/// All measurements.
#[derive(Default)]
pub struct Report {
    samples: Vec<Sample>,
    /// Measurements that could not be made, because a connection or request failed.
    failures: Vec<(usize, Way)>,
}

impl Report {
    pub fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// Notes a measurement that could not be made.
    pub fn failed(&mut self, services: usize, way: Way) {
        self.failures.push((services, way));
    }

    /// The numbers of other Services, in the order of their measurement.
    pub fn sizes(&self) -> Vec<usize> {
        let mut sizes: Vec<usize> = self.samples.iter().map(|sample| sample.services).collect();
        sizes.dedup();
        sizes
    }

    /// The median of the ratios to the direct way, each of one round; `None` if the way was not measured.
    pub fn ratio(&self, services: usize, row: Row, way: Way, of: Figure) -> Option<f64> {
        let own: Vec<&Sample> = self.of(services, row, way).collect();
        let ratio = |direct: &Sample| {
            let own = own.iter().find(|own| own.round == direct.round)?;
            Some(of(&own.figures) / of(&direct.figures))
        };
        median(self.of(services, row, Way::Direct).filter_map(ratio).collect())
    }

    fn of(&self, services: usize, row: Row, way: Way) -> impl Iterator<Item = &Sample> {
        self.samples
            .iter()
            .filter(move |sample| sample.services == services && sample.row == row && sample.way == way)
    }

    /// A Markdown table for one number of Services: the direct way's figures, and what the others reach of them.
    pub fn table(&self, services: usize) -> String {
        let ways = Way::ALL.into_iter().skip(1).filter(|way| {
            self.samples.iter().any(|sample| sample.services == services && sample.way == *way)
        });
        let ways: Vec<Way> = ways.collect();
        let mut text = format!("\n| {services} other Services | direct |");
        for way in &ways {
            write!(text, " {} |", way.name()).expect("writing to a String cannot fail");
        }
        text += "\n| --- | ---: |";
        text += &" ---: |".repeat(ways.len());
        for row in Row::ALL {
            let direct = median(self.of(services, row, Way::Direct).map(|s| s.figures.rate).collect());
            self.line(&mut text, services, row, (row.name(), direct), &ways, |figures| figures.rate);
        }
        let row = Row::Connections;
        let quantiles: [(&str, Figure); 2] =
            [("us for a connection, p50", |figures| figures.p50), ("p99", |figures| figures.p99)];
        for (name, of) in quantiles {
            let direct = median(self.of(services, row, Way::Direct).map(|s| of(&s.figures)).collect());
            self.line(&mut text, services, row, (name, direct), &ways, of);
        }
        if self.failures.iter().any(|(size, _)| *size == services) {
            text += "\n| measurements that failed | 0 |";
            for way in &ways {
                let failures = self.failures.iter().filter(|failure| **failure == (services, *way)).count();
                write!(text, " {failures} |").expect("writing to a String cannot fail");
            }
        }
        text
    }

    fn line(
        &self,
        text: &mut String,
        services: usize,
        row: Row,
        (name, direct): (&str, Option<f64>),
        ways: &[Way],
        of: Figure,
    ) {
        write!(text, "\n| {name} | {:.0} |", direct.unwrap_or(f64::NAN))
            .expect("writing to a String cannot fail");
        for way in ways {
            let ratio = self.ratio(services, row, *way, of).unwrap_or(f64::NAN);
            write!(text, " {ratio:.3} |").expect("writing to a String cannot fail");
        }
    }

    /// Reads what [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn read(folder: &Path) -> Result<Self> {
        let file = folder.join(FILE);
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Ok(Self { samples: serde_json::from_str(&text)?, failures: Vec::new() })
    }

    /// Writes all measurements as JSON.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let file = folder.join(FILE);
        fs::write(&file, serde_json::to_string(&self.samples)?).with_context(|| file.display().to_string())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
