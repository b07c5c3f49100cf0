//! Runs test programs, some of them side by side.

use std::{
    ffi::OsStr,
    io::{self, BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{outcome::Outcome, plan::Job};

/// Two keep two CPUs busy: each waits for much of its time, for the kernel, for a server, for a timeout.
const LANES: usize = 2;

/// Runs the jobs, in their order, in as many lanes as there are. What a program prints is shown when the program
/// has ended.
pub fn side_by_side(jobs: &[Job], command: impl Fn(&Job) -> Result<Command> + Sync) -> Vec<Outcome> {
    let queue = Mutex::new(jobs.iter());
    let lane = || {
        let mut outcomes = Vec::new();
        loop {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(job) = queue.next() else { return outcomes };
            // Still under the lock: sudo may ask for a password, and asks once.
            let command = command(job);
            println!("-- {} begins", job.title);
            drop(queue);
            let begun = Instant::now();
            let mut text = Vec::new();
            let outcome = outcome(job, command, &mut text);
            let mut out = io::stdout().lock();
            // A closed stdout is no failure of the test.
            let _ = writeln!(out, "\n== {} ({:.0} s)", job.title, begun.elapsed().as_secs_f64());
            let _ = out.write_all(&text).and_then(|()| out.flush());
            outcomes.push(outcome);
        }
    };
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().flat_map(|lane| lane.join().expect("a lane does not panic")).collect()
    })
}

/// Runs one job, with nothing beside it, and shows each line at once.
pub fn alone(job: &Job, command: impl Fn(&Job) -> Result<Command>) -> Outcome {
    println!("\n== {}", job.title);
    outcome(job, command(job), &mut io::stdout())
}

fn outcome(job: &Job, command: Result<Command>, out: &mut impl Write) -> Outcome {
    command
        .and_then(|command| watch(&job.title, command, out))
        .unwrap_or_else(|error| Outcome::of_step(&job.title, Err(error), Duration::ZERO))
}

/// Passes on what a test program prints, and counts.
pub fn watch(title: &str, mut command: Command, out: &mut impl Write) -> Result<Outcome> {
    let program = command.get_program().to_owned();
    // One pipe for both, so that a message stands where it belongs.
    let (reader, writer) = io::pipe().context("a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let begun = Instant::now();
    let child = command.spawn();
    // With it go our ends of the pipe, which would keep it open.
    drop(command);
    let mut child = child.with_context(|| format!("{} does not start", OsStr::display(&program)))?;
    let mut outcome = Outcome::new(title);
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        outcome.read(&String::from_utf8_lossy(&line), begun.elapsed());
        out.write_all(&line)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    outcome.end(child.wait()?, begun.elapsed());
    Ok(outcome)
}
