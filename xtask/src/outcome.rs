//! The results that a test program printed, and when.

use std::{fmt, process::ExitStatus, time::Duration};

use anyhow::Result;

pub struct Outcome {
    pub title: String,
    pub passed: u32,
    pub failed: u32,
    /// Why the program did not end as it should; empty if it did.
    end: String,
    /// From the start of the program to its end.
    pub time: Duration,
    pub tests: Vec<Timed>,
    /// When the last line was printed, counted from the start of the program.
    last_line: Duration,
    /// Whether the last test of `tests` has not ended yet.
    is_open: bool,
}

/// A test and the time that it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timed {
    pub name: String,
    pub time: Duration,
}

/// How libtest ends the line of a test.
const RESULTS: [&str; 3] = ["ok", "FAILED", "ignored"];

impl Outcome {
    pub fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            passed: 0,
            failed: 0,
            end: String::new(),
            time: Duration::ZERO,
            tests: Vec::new(),
            last_line: Duration::ZERO,
            is_open: false,
        }
    }

    /// The outcome of a step that is not a test program: one passed, or one failed.
    pub fn of_step(title: &str, result: Result<()>, time: Duration) -> Self {
        let (passed, failed) = if result.is_ok() { (1, 0) } else { (0, 1) };
        let end = result.err().map_or_else(String::new, |error| format!(" ({error:#})"));
        Self { passed, failed, end, time, ..Self::new(title) }
    }

    /// Reads a line that was printed `at` this time after the start of the program.
    ///
    /// Programs run one test at a time, so the time of a test is the time between two lines. Stable libtest prints no
    /// times itself: `--report-time` needs `-Zunstable-options`, and if either option changed, every program would
    /// refuse to run its tests.
    pub fn read(&mut self, line: &str, at: Duration) {
        self.count(line);
        let took = at.saturating_sub(self.last_line);
        self.last_line = at;
        let ends = |text: &str| RESULTS.iter().any(|result| text.ends_with(result));
        if let Some((name, rest)) = line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) {
            self.tests.push(Timed { name: name.to_owned(), time: took });
            self.is_open = !ends(rest);
        } else if let Some(test) = self.tests.last_mut().filter(|_| self.is_open) {
            // Output of a child process comes between the name and the result.
            test.time += took;
            self.is_open = !ends(line);
        }
    }

    /// Adds the counts of `test result: ok. 3 passed; 0 failed; ...`. Doc tests print one such line for each crate.
    fn count(&mut self, line: &str) {
        let Some((_, counts)) = line.split_once("test result: ").and_then(|(_, rest)| rest.split_once(". "))
        else {
            return;
        };
        let count = |noun| {
            let of = |part: &str| part.trim().strip_suffix(noun)?.trim().parse().ok();
            counts.split(';').find_map(of).unwrap_or(0)
        };
        self.passed += count("passed");
        self.failed += count("failed");
    }

    /// Records the end. A program that dies, or ends badly without naming a test, counts as one failure.
    pub fn end(&mut self, status: ExitStatus, time: Duration) {
        self.time = time;
        if status.success() || self.failed > 0 {
            return;
        }
        self.failed += 1;
        self.end = match status.code() {
            Some(124 | 137) => " (took too long)".to_owned(),
            _ => format!(" ({status})"),
        };
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { title, passed, failed, end, .. } = self;
        write!(f, "{title}: {passed} passed, {failed} failed{end}, {:.1} s", self.time.as_secs_f64())
    }
}

/// The tests that took longest, each with the title of its program, slowest first.
pub fn slowest(outcomes: &[Outcome], count: usize) -> Vec<(&str, &Timed)> {
    let mut all: Vec<_> = outcomes
        .iter()
        .flat_map(|outcome| outcome.tests.iter().map(|test| (outcome.title.as_str(), test)))
        .collect();
    all.sort_by_key(|(_, test)| std::cmp::Reverse(test.time));
    all.truncate(count);
    all
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn outcome(lines: &[&str], status: i32) -> String {
        let mut outcome = Outcome::new("a");
        lines.iter().for_each(|line| outcome.read(line, Duration::ZERO));
        outcome.end(ExitStatus::from_raw(status << 8), Duration::from_millis(1_500));
        outcome.to_string()
    }

    #[test]
    fn counts_every_result_line() {
        let ok =
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(outcome(&["running 4 tests", ok, ok], 0), "a: 6 passed, 0 failed, 1.5 s");
    }

    #[test]
    fn failures_are_counted_once() {
        let bad = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(outcome(&[bad], 101), "a: 1 passed, 2 failed, 1.5 s");
    }

    #[test]
    fn an_abrupt_end_is_a_failure() {
        assert_eq!(outcome(&["running 4 tests"], 124), "a: 0 passed, 1 failed (took too long), 1.5 s");
        assert_eq!(outcome(&[], 1), "a: 0 passed, 1 failed (exit status: 1), 1.5 s");
    }

    #[test]
    fn a_test_takes_as_long_as_its_line_is_waited_for() {
        let lines = [
            ("", 1),
            ("running 4 tests", 2),
            ("test quick ... ok", 3),
            ("test slow::it_panics - should panic ... ok", 13),
            ("test noisy ... the word of a child", 15),
            ("and one more", 16),
            ("ok", 18),
            ("test off ... ignored", 18),
            ("", 20),
            ("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out", 30),
        ];
        let mut outcome = Outcome::new("a");
        lines.iter().for_each(|(line, at)| outcome.read(line, Duration::from_secs(*at)));
        let outcomes = [outcome];
        let slowest: Vec<_> = slowest(&outcomes, 3)
            .into_iter()
            .map(|(title, test)| (title, test.name.as_str(), test.time.as_secs()))
            .collect();
        assert_eq!(
            slowest,
            [("a", "slow::it_panics - should panic", 10), ("a", "noisy", 5), ("a", "quick", 1)]
        );
    }
}
