//! `cargo xtask bench data` measures what a connection, a request and a byte cost by each way to a server: the pod's own
//! address without `lb` and with `lb` loaded, a Service by `lb`, and the same Service by a real kube-proxy.
//!
//! Each way has a world of its own. All of them are there at once, and take turns in every round, so that the load of
//! the machine is the same for all.

mod chart;
mod client;
mod report;
mod row;
mod server;
mod way;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use lb_tests::cluster::Cluster;
use lb_tests::world::NODE_NAME;

pub use client::{Client, run as run_client};

use self::report::{Report, Sample};
use self::row::Row;
use self::way::{Running, Way};
use super::population::{self, Size};

/// The options of `lb-bench data`.
#[derive(Args)]
pub struct Options {
    /// The `lb` to measure; by default the one next to this program
    #[arg(long)]
    pub lb: Option<PathBuf>,
    /// Number of other Services; may be given several times
    #[arg(long = "services", default_values_t = [10, 10_000])]
    pub services: Vec<usize>,
    /// Number of rounds; medians are shown
    #[arg(long, default_value_t = 9)]
    pub rounds: usize,
    /// Milliseconds for each figure of a round
    #[arg(long, default_value_t = 400)]
    pub milliseconds: u64,
    /// The folder for the figures as JSON and for the charts
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Measure nothing; draw the charts of this folder's figures again
    #[arg(long, conflicts_with = "out")]
    pub draw: Option<PathBuf>,
    /// Measure `lb` and the pod's own address only
    #[arg(long)]
    pub without_kube_proxy: bool,
}

/// Measures all ways with each number of Services.
///
/// # Errors
/// If a world cannot be made, a subject does not serve, or a file cannot be written.
pub fn measure(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0, "--rounds must not be 0");
    if let Some(folder) = &options.draw {
        return chart::draw(&Report::read(folder)?, folder);
    }
    let mut report = Report::default();
    for services in &options.services {
        measure_with(*services, options, &mut report)
            .with_context(|| format!("with {services} other Services"))?;
        println!("{}", report.table(*services));
    }
    if let Some(folder) = &options.out {
        report.write(folder)?;
        chart::draw(&report, folder)?;
        println!("the figures and charts are in {}", folder.display());
    }
    Ok(())
}

fn measure_with(services: usize, options: &Options, report: &mut Report) -> Result<()> {
    let lb: &Path = match &options.lb {
        Some(lb) => lb,
        None => &lb_tests::world::lb_binary()?,
    };
    let cluster = Cluster::alone()?;
    population::create(&cluster, Size { services, endpoints: 1 }, NODE_NAME, &[])?;
    cluster.apply(way::SERVICE)?;
    let ways = Way::ALL.into_iter().filter(|way| !(options.without_kube_proxy && way.is_kube_proxys()));
    let mut running = Vec::new();
    for way in ways {
        eprintln!("{services} other Services: {} is starting", way.name());
        running.push(Running::start(way, &cluster, lb)?);
    }
    let time = Duration::from_millis(options.milliseconds);
    for round in 1..=options.rounds {
        for row in Row::ALL {
            for way in &running {
                match way.measure(row, time) {
                    Ok(figures) => report.add(Sample { services, round, row, way: way.way, figures }),
                    // Seen with kube-proxy and 10,000 Services, which it writes anew now and then.
                    Err(failed) if way.way.is_kube_proxys() => {
                        eprintln!("round {round}: {failed:#}");
                        report.failed(services, way.way);
                    }
                    Err(failed) => return Err(failed),
                }
            }
        }
        eprintln!("{services} other Services: round {round} of {} is done", options.rounds);
    }
    Ok(())
}
