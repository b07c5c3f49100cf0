//! What runs on other kernels: all that depends on what a kernel accepts and does.

use std::{
    io::{self, Write},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    cargo::{self, Program},
    outcome::Outcome,
    privilege::environment,
    vm::{Guest, Kernel, Series, Step},
};

/// Which kernels to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// Debian 12's own
    #[value(name = "6.1")]
    V6_1,
    /// Debian 12's backports
    #[value(name = "6.12")]
    V6_12,
    /// One after the other
    All,
}

impl Which {
    fn series(self) -> Vec<Series> {
        match self {
            Self::V6_1 => vec![Series::V6_1],
            Self::V6_12 => vec![Series::V6_12],
            Self::All => Series::ALL.to_vec(),
        }
    }
}

/// A test program, what its tests are named, and a limit in minutes.
type Tests = (&'static str, &'static [&'static str], u64);

/// The tests of each kernel, in two guests at once: a guest has one program running and seldom uses more than one CPU.
/// Nothing that measures time is here: a guest is some ten times slower than the machine.
const GUESTS: [&[Tests]; 2] = [
    &[
        ("tc", &[], 8),
        ("xdp", &[], 3),
        ("sockets", &["reach::", "verdicts::", "agent::a_dead", "ends::when_a_backend"], 6),
    ],
    &[
        (
            "traffic",
            &[
                "layout::routed_by_clsact",
                "layout::routed_by_tcx",
                "layout::bridge_by_tcx",
                "layout::bridge_with_br_netfilter_by_clsact",
                "layout::bridge_with_invalid_dropped_by_clsact",
                "hairpin::",
            ],
            6,
        ),
        ("survival", &["kill::a_killed", "cleanup::", "upgrade::an_upgrade_swaps"], 10),
        ("kube_proxy", &["cleanup::", "check::a_node_that_can"], 4),
    ],
];

/// What the kernels of a series lack, and a word in the names of the tests that need it.
fn lacks(series: Series) -> &'static [(&'static str, &'static str)] {
    match series {
        Series::V6_1 => &[("TCX (Linux 6.6)", "tcx")],
        Series::V6_12 => &[],
    }
}

/// Boots each kernel and runs everything there.
pub fn run(which: Which) -> Result<Vec<Outcome>> {
    let programs = cargo::build(&["--workspace", "--bins", "--tests"])?;
    let mut outcomes = Vec::new();
    for series in which.series() {
        let mut guests = Vec::new();
        for wanted in GUESTS {
            let mut steps = if guests.is_empty() { shortest(&programs)? } else { Vec::new() };
            for (name, arguments, minutes) in wanted {
                let mut step = tests(&programs, name, arguments, *minutes)?;
                for (_, word) in lacks(series) {
                    step.arguments.extend(["--skip".to_owned(), (*word).to_owned()]);
                }
                steps.push(step);
            }
            guests.push(steps);
        }
        outcomes.extend(boot(series, &programs, &guests));
    }
    Ok(outcomes)
}

/// Boots the oldest kernel that is tested, and sees whether its verifier takes the programs, the demo runs, and the
/// servers of IPVS go, which this machine's kernel may lack.
pub fn oldest(programs: &[Program]) -> Vec<Outcome> {
    match shortest(programs) {
        Ok(steps) => boot(Series::V6_1, programs, &[steps]),
        Err(error) => vec![Outcome::of_step("6.1", Err(error), Duration::ZERO)],
    }
}

/// Boots a guest for each list of steps, all at once.
fn boot(series: Series, programs: &[Program], guests: &[Vec<Step>]) -> Vec<Outcome> {
    let begun = Instant::now();
    let failed = |error| vec![Outcome::of_step(series.name(), Err(error), begun.elapsed())];
    let kernel = match Kernel::ensure(series) {
        Ok(kernel) => kernel,
        Err(error) => return failed(error),
    };
    let mut environment = environment();
    match cargo::find(programs, "lb") {
        Ok(lb) => environment.push(("LB_BIN", lb.into())),
        Err(error) => return failed(error),
    }
    println!("\n== kernel {}", kernel.release());
    for (what, word) in lacks(series) {
        println!("left out: tests with {word:?} in their names, because this kernel has no {what}");
    }
    let guest = &Guest { kernel: &kernel, environment };
    thread::scope(|scope| {
        let guests: Vec<_> = guests
            .iter()
            .zip(1..)
            .map(|(steps, number)| {
                let mut out = Prefixed(format!("{}/{number} ", series.name()));
                scope.spawn(move || guest.run(steps, &mut out))
            })
            .collect();
        guests.into_iter().flat_map(|guest| guest.join().expect("a guest's thread does not panic")).collect()
    })
}

/// Standard output, with a prefix before what is written at once.
struct Prefixed(String);

impl Write for Prefixed {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut out = io::stdout().lock();
        out.write_all(self.0.as_bytes())?;
        out.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// `lb check`, one round of the demo, and the tests that need a kernel with IPVS.
fn shortest(programs: &[Program]) -> Result<Vec<Step>> {
    let lb = cargo::find(programs, "lb")?;
    let demo = cargo::find(programs, "lb-demo")?;
    let step = |title: &str, program: &std::path::Path, arguments: &[&str], seconds| Step {
        title: title.to_owned(),
        program: program.to_owned(),
        arguments: arguments.iter().map(ToString::to_string).collect(),
        folder: xtask::toolchain::root().to_owned(),
        limit: Duration::from_secs(seconds),
        has_tests: false,
    };
    let lb_path = lb.to_str().context("the path of lb is not UTF-8")?;
    Ok(vec![
        step("lb check", lb, &["check"], 60),
        step("demo", demo, &["--lb", lb_path, "--once"], 240),
        tests(programs, "kube_proxy", &["--ignored", "ipvs::"], 4)?,
    ])
}

fn tests(programs: &[Program], name: &str, arguments: &[&str], minutes: u64) -> Result<Step> {
    let program = programs.iter().find(|program| program.is_test && program.name == name);
    let program = program.with_context(|| format!("there is no test program {name}"))?;
    let mut all = vec!["--test-threads=1".to_owned()];
    all.extend(arguments.iter().map(ToString::to_string));
    Ok(Step {
        title: format!("tests/{name}"),
        program: program.file.clone(),
        arguments: all,
        folder: program.package.clone(),
        limit: Duration::from_secs(minutes * 60),
        has_tests: true,
    })
}
