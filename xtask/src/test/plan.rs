//! The test programs, and which of them run side by side.

use std::path::PathBuf;

use xtask::toolchain;

use crate::cargo::Program;

/// Tests that measure, or that would disturb all others. They run after the others, and no other program runs at the
/// same time. Each entry has the title of a program, a part of the names of such tests in it (empty: all of them), and
/// the reason.
const ALONE: [(&str, &str, &str); 6] = [
    ("tests/budgets", "", "prints the nanoseconds of a packet, which are compared from run to run"),
    ("tests/sockets", "cost::", "asserts microseconds of connect()"),
    ("tests/survival", "rates::", "counts what is lost at a rate that takes both CPUs"),
    ("tests/survival", "flood::", "fills the queue of packets that all namespaces share on a CPU"),
    ("tests/survival", "attack::", "the same"),
    ("tests/world", "the_flood_arrives", "the same"),
];

/// These programs take longest, so they begin first; otherwise one of them would be the last one running.
const LONG: [&str; 7] = [
    "tests/survival",
    "tests/traffic",
    "tests/api",
    "tests/rules",
    "tests/sockets",
    "tests/kube_proxy",
    "tests/tc",
];

/// A run of a test program, with all or some of its tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// `tests/traffic`
    pub title: String,
    pub file: PathBuf,
    /// The folder of its package.
    pub package: PathBuf,
    /// Only root can use programs, maps and network namespaces.
    pub needs_root: bool,
    /// The arguments for libtest.
    pub arguments: Vec<String>,
}

/// All jobs, in the order in which they begin.
pub struct Plan {
    pub side_by_side: Vec<Job>,
    pub alone: Vec<Job>,
}

impl Plan {
    /// With a `filter`, only tests run whose name contains it.
    pub fn new(programs: &[Program], filter: Option<&str>) -> Self {
        let mut plan = Self { side_by_side: Vec::new(), alone: Vec::new() };
        for program in programs.iter().filter(|program| program.is_test) {
            plan.add(Job::new(program), filter);
        }
        let rank = |job: &Job| LONG.iter().position(|title| *title == job.title).unwrap_or(LONG.len());
        plan.side_by_side.sort_by_key(|job| (rank(job), job.needs_root, job.title.clone()));
        plan.alone.sort_by_key(|job| job.title.clone());
        plan
    }

    fn add(&mut self, job: Job, filter: Option<&str>) {
        let alone: Vec<&str> =
            ALONE.iter().filter(|(title, ..)| *title == job.title).map(|(_, names, _)| *names).collect();
        match filter {
            // libtest takes several words as alternatives, so a filtered program is not split.
            Some(filter) if alone.is_empty() => self.side_by_side.push(job.with(&[filter])),
            Some(filter) => self.alone.push(job.with(&[filter])),
            None if alone.contains(&"") => self.alone.push(job),
            None => {
                let skipped: Vec<&str> = alone.iter().flat_map(|names| ["--skip", *names]).collect();
                self.side_by_side.push(job.clone().with(&skipped));
                self.alone.extend(alone.into_iter().map(|names| job.clone().named(names)));
            }
        }
    }
}

impl Job {
    fn new(program: &Program) -> Self {
        Self {
            title: title(program),
            file: program.file.clone(),
            package: program.package.clone(),
            needs_root: program.package == toolchain::root().join("tests"),
            // One test at a time, because the tests of a program share a server, a cgroup and the CPUs, and are timed.
            arguments: vec!["--test-threads=1".to_owned()],
        }
    }

    fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Only the tests whose names contain this.
    fn named(self, names: &str) -> Self {
        let title = format!("{} {names}", self.title);
        Self { title, ..self.with(&[names]) }
    }
}

fn title(program: &Program) -> String {
    let folder = program.package.file_name().unwrap_or_default().to_string_lossy();
    match program.kind.as_str() {
        "test" => format!("{folder}/{}", program.name),
        kind => format!("{folder} ({kind})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(filter: Option<&str>) -> [Vec<String>; 2] {
        let program = |package: &str, name: &str| Program {
            package: toolchain::root().join(package),
            name: name.to_owned(),
            kind: "test".to_owned(),
            is_test: true,
            file: PathBuf::new(),
        };
        let programs = [
            program("lb-userspace", "rules"),
            program("tests", "budgets"),
            program("tests", "traffic"),
            program("tests", "survival"),
        ];
        let plan = Plan::new(&programs, filter);
        let shown = |jobs: &[Job]| {
            jobs.iter().map(|job| format!("{}: {}", job.title, job.arguments[1..].join(" "))).collect()
        };
        [shown(&plan.side_by_side), shown(&plan.alone)]
    }

    #[test]
    fn what_measures_runs_alone_and_the_longest_begins_first() {
        assert_eq!(
            plan(None),
            [
                vec![
                    "tests/survival: --skip rates:: --skip flood:: --skip attack::",
                    "tests/traffic: ",
                    "lb-userspace/rules: ",
                ],
                vec![
                    "tests/budgets: ",
                    "tests/survival attack::: attack::",
                    "tests/survival flood::: flood::",
                    "tests/survival rates::: rates::",
                ],
            ]
        );
    }

    #[test]
    fn a_filter_reaches_each_program_once() {
        assert_eq!(
            plan(Some("hairpin")),
            [
                vec!["tests/traffic: hairpin", "lb-userspace/rules: hairpin"],
                vec!["tests/budgets: hairpin", "tests/survival: hairpin"],
            ]
        );
    }
}
