//! What a test program said about itself.

use std::{fmt, process::ExitStatus};

use anyhow::Result;

pub struct Outcome {
    title: String,
    pub passed: u32,
    pub failed: u32,
    /// Why it did not end as it should.
    end: String,
}

impl Outcome {
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), passed: 0, failed: 0, end: String::new() }
    }

    /// Of what is no test program: one passed, or one failed.
    pub fn of_step(title: &str, result: Result<()>) -> Self {
        let (passed, failed) = if result.is_ok() { (1, 0) } else { (0, 1) };
        let end = result.err().map_or_else(String::new, |error| format!(" ({error:#})"));
        Self { title: title.to_owned(), passed, failed, end }
    }

    /// Takes the counts from `test result: ok. 3 passed; 0 failed; ...`; doc tests print one for each crate.
    pub fn read(&mut self, line: &str) {
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

    /// A program that dies, or ends badly without naming a test, is a failure of its own.
    pub fn end(&mut self, status: ExitStatus) {
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
        write!(f, "{}: {} passed, {} failed{}", self.title, self.passed, self.failed, self.end)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn outcome(lines: &[&str], status: i32) -> String {
        let mut outcome = Outcome::new("a");
        lines.iter().for_each(|line| outcome.read(line));
        outcome.end(ExitStatus::from_raw(status << 8));
        outcome.to_string()
    }

    #[test]
    fn counts_every_result_line() {
        let ok =
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(outcome(&["running 4 tests", ok, ok], 0), "a: 6 passed, 0 failed");
    }

    #[test]
    fn failures_are_counted_once() {
        let bad = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(outcome(&[bad], 101), "a: 1 passed, 2 failed");
    }

    #[test]
    fn an_abrupt_end_is_a_failure() {
        assert_eq!(outcome(&["running 4 tests"], 124), "a: 0 passed, 1 failed (took too long)");
        assert_eq!(outcome(&[], 1), "a: 0 passed, 1 failed (exit status: 1)");
    }
}
