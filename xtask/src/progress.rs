//! Running long commands with a progress line.

use std::{
    fs::{self, File},
    io::{IsTerminal, Write},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use xtask::toolchain;

/// Without a terminal, a line is printed at most this often.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// Runs `command` with a progress line. On failure, the error holds the end of the command's output.
pub fn run(what: &str, command: &mut Command, limit: Duration) -> Result<()> {
    let log = toolchain::cache()?.join("setup.log");
    fs::create_dir_all(toolchain::cache()?).context("the cache folder cannot be made")?;
    let output = File::create(&log).with_context(|| format!("{} cannot be written", log.display()))?;

    let mut line = Line { what, start: Instant::now(), printed: None };
    line.show("");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("{} cannot be started", command.get_program().to_string_lossy()))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if line.start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            line.end("too slow");
            bail!(
                "{what}: not finished after {} s; the end of its output:\n{}",
                limit.as_secs(),
                tail(&fs::read(&log)?)
            );
        }
        thread::sleep(Duration::from_millis(100));
        line.show("");
    };
    if !status.success() {
        line.end("failed");
        bail!("{what}: {status}; the end of its output:\n{}", tail(&fs::read(&log)?));
    }
    line.end("done");
    Ok(())
}

/// The progress line: redrawn on a terminal, repeated every [`LINE_EVERY`] elsewhere.
struct Line<'a> {
    what: &'a str,
    start: Instant,
    printed: Option<Instant>,
}

impl Line<'_> {
    fn show(&mut self, result: &str) {
        let mut out = std::io::stderr();
        let text = format!("set-up: {} ... {} s {result}", self.what, self.start.elapsed().as_secs());
        let due = self.printed.is_none_or(|at| at.elapsed() >= LINE_EVERY) || !result.is_empty();
        // A closed stderr must not stop the installation.
        let _ = match out.is_terminal() {
            true if result.is_empty() => write!(out, "\r{text}"),
            true => writeln!(out, "\r{text}"),
            false if due => writeln!(out, "{}", text.trim_end()),
            false => return,
        };
        let _ = out.flush();
        self.printed = Some(Instant::now());
    }

    fn end(&mut self, result: &str) {
        self.show(result);
    }
}

/// The last lines of an output, where tools report what went wrong.
fn tail(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(12)..];
    last.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
