//! What runs on other kernels: all that depends on what a kernel accepts and does.

use std::{
    io::{self, Write},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    architecture::Architecture,
    cargo::{self, Program},
    outcome::Outcome,
    privilege::environment,
    setup,
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
/// Nothing that measures time is here: a guest is some ten times slower than the machine. [`HOOK`] in a name is the hook
/// that the kernel's agents choose.
const GUESTS: [&[Tests]; 2] = [
    &[
        ("tc", &[], 10),
        ("xdp", &[], 3),
        ("sockets", &["reach::", "agent::a_dead", "ends::when_a_backend"], 6),
    ],
    &[
        (
            "traffic",
            &[
                "layout::routed_by_HOOK",
                "layout::bridge_by_HOOK",
                "layout::bridge_with_br_netfilter_by_clsact",
                "layout::bridge_with_invalid_dropped_by_clsact",
                "hairpin::routed",
                "hairpin::by_frontends_of_every_kind_behind",
            ],
            6,
        ),
        (
            "survival",
            &["kill::a_killed", "cleanup::", "upgrade::an_upgrade_swaps_other_programs_under_HOOK"],
            9,
        ),
        ("kube_proxy", &["cleanup::", "check::a_node_that_can"], 4),
    ],
];

const HOOK: &str = "HOOK";

/// The tests of a kernel of another architecture, in one guest: it has few programs.
const FOREIGN: &[Tests] = &[("tc", &[], 12), ("xdp", &[], 3)];

/// What the kernels of a series lack, and a word in the names of the tests that need it.
fn lacks(series: Series) -> &'static [(&'static str, &'static str)] {
    match series {
        Series::V6_1 => &[("TCX (Linux 6.6)", "tcx")],
        Series::V6_12 => &[],
    }
}

/// The hook that agents choose on kernels of a series.
const fn hook(series: Series) -> &'static str {
    match series {
        Series::V6_1 => "clsact",
        Series::V6_12 => "tcx",
    }
}

/// Boots each kernel and runs everything there.
pub fn run(which: Which, architecture: Architecture) -> Result<Vec<Outcome>> {
    setup::cross(architecture)?;
    let programs = cargo::build_for(architecture, &["--workspace", "--bins", "--tests"])?;
    let mut outcomes = Vec::new();
    for series in which.series() {
        let mut guests = Vec::new();
        for wanted in if architecture.is_host() { &GUESTS[..] } else { &[FOREIGN] } {
            let mut steps = if guests.is_empty() { shortest(&programs, architecture)? } else { Vec::new() };
            for (name, arguments, minutes) in *wanted {
                let arguments: Vec<String> =
                    arguments.iter().map(|name| name.replace(HOOK, hook(series))).collect();
                let mut step = tests(&programs, name, &arguments, *minutes)?;
                for (_, word) in lacks(series) {
                    step.arguments.extend(["--skip".to_owned(), (*word).to_owned()]);
                }
                steps.push(step);
            }
            guests.push(steps);
        }
        outcomes.extend(boot(series, architecture, &programs, &guests));
    }
    Ok(outcomes)
}

/// Boots the oldest kernel that is tested, and sees whether its verifier takes the programs, the demo runs, and the
/// servers of IPVS go, which this machine's kernel may lack.
pub fn oldest(programs: &[Program]) -> Vec<Outcome> {
    let begun = || {
        let host = Architecture::host()?;
        Ok((host, shortest(programs, host)?))
    };
    match begun() {
        Ok((host, steps)) => boot(Series::V6_1, host, programs, &[steps]),
        Err(error) => vec![Outcome::of_step("6.1", Err(error), Duration::ZERO)],
    }
}

/// Boots a guest for each list of steps, all at once.
fn boot(
    series: Series,
    architecture: Architecture,
    programs: &[Program],
    guests: &[Vec<Step>],
) -> Vec<Outcome> {
    let begun = Instant::now();
    let failed = |error| vec![Outcome::of_step(series.name(), Err(error), begun.elapsed())];
    let kernel = match Kernel::ensure(series, architecture) {
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
                let mut out = Prefixed(format!("{}/{number} ", kernel.name()));
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
fn shortest(programs: &[Program], architecture: Architecture) -> Result<Vec<Step>> {
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
    let mut steps =
        vec![step("lb check", lb, &["check"], 60), step("demo", demo, &["--lb", lb_path, "--once"], 240)];
    // These use ipvsadm and more of this machine's programs.
    if architecture.is_host() {
        steps.push(tests(programs, "kube_proxy", &["--ignored", "ipvs::"], 4)?);
    }
    Ok(steps)
}

fn tests(programs: &[Program], name: &str, arguments: &[impl AsRef<str>], minutes: u64) -> Result<Step> {
    let program = programs.iter().find(|program| program.is_test && program.name == name);
    let program = program.with_context(|| format!("there is no test program {name}"))?;
    let mut all = vec!["--test-threads=1".to_owned()];
    all.extend(arguments.iter().map(|argument| argument.as_ref().to_owned()));
    Ok(Step {
        title: format!("tests/{name}"),
        program: program.file.clone(),
        arguments: all,
        folder: program.package.clone(),
        limit: Duration::from_secs(minutes * 60),
        has_tests: true,
    })
}
