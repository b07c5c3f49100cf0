//! Runs test programs, some of them side by side.

use std::{
    ffi::OsStr,
    io::{self, BufRead, BufReader, Write},
    process::{Command, Stdio},
    slice::Iter,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::plan::Job;
use crate::outcome::Outcome;

/// Two lanes keep two CPUs busy, because each spends much time waiting for the kernel, a server or a timeout.
const LANES: usize = 2;

/// Runs the jobs in all lanes; they begin in the given order. What a program prints is shown when the program has
/// ended.
pub fn side_by_side(
    jobs: &[Job],
    command: impl Fn(&Job) -> Result<Command> + Sync,
    out: impl Write + Send,
) -> Vec<Outcome> {
    let (queue, out) = (Mutex::new(jobs.iter()), Mutex::new(out));
    let lane = || {
        let mut outcomes = Vec::new();
        while let Some((job, command)) = next(&queue, &command) {
            show(&out, format!("-- {} begins\n", job.title).as_bytes());
            let mut text = Vec::new();
            let outcome = outcome(job, command, &mut text);
            let title = format!("\n== {} ({:.0} s)\n", job.title, outcome.time.as_secs_f64());
            show(&out, &[title.into_bytes(), text].concat());
            outcomes.push(outcome);
        }
        outcomes
    };
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().flat_map(|lane| lane.join().expect("a lane does not panic")).collect()
    })
}

/// The next job, and its command. One lane at a time makes its command, so that sudo asks for a password only once.
fn next<'a>(
    queue: &Mutex<Iter<'a, Job>>,
    command: impl Fn(&Job) -> Result<Command>,
) -> Option<(&'a Job, Result<Command>)> {
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    queue.next().map(|job| (job, command(job)))
}

fn show(out: &Mutex<impl Write>, text: &[u8]) {
    let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
    // A closed stdout is not a failure of a test.
    let _ = out.write_all(text).and_then(|()| out.flush());
}

/// Runs one job while no other job runs, and shows each line at once.
pub fn alone(job: &Job, command: impl Fn(&Job) -> Result<Command>) -> Outcome {
    println!("\n== {}", job.title);
    outcome(job, command(job), &mut io::stdout())
}

fn outcome(job: &Job, command: Result<Command>, out: &mut impl Write) -> Outcome {
    command
        .and_then(|command| watch(&job.title, command, out))
        .unwrap_or_else(|error| Outcome::of_step(&job.title, Err(error), Duration::ZERO))
}

/// Passes on what a test program prints, and counts the results.
pub fn watch(title: &str, mut command: Command, out: &mut impl Write) -> Result<Outcome> {
    let program = command.get_program().to_owned();
    // One pipe for both streams keeps each message in its place.
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let begun = Instant::now();
    let child = command.spawn();
    // This closes our writing ends of the pipe, which would keep it open.
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn job(title: &str) -> Job {
        Job {
            title: title.to_owned(),
            file: PathBuf::new(),
            package: PathBuf::new(),
            needs_root: false,
            arguments: Vec::new(),
        }
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn messages_stand_between_the_lines_and_are_not_counted() {
        let script = "echo test a ... ok; echo oh >&2; echo 'test result: ok. 1 passed; 0 failed'; exit 0";
        let mut text = Vec::new();
        let outcome = watch("a", shell(script), &mut text).expect("sh starts");
        assert_eq!((outcome.passed, outcome.failed, outcome.tests.len()), (1, 0, 1));
        assert_eq!(
            String::from_utf8_lossy(&text),
            "test a ... ok\noh\ntest result: ok. 1 passed; 0 failed\n"
        );
    }

    /// Each of two programs waits for the other.
    #[test]
    fn two_run_at_once_and_their_lines_do_not_mix() {
        let folder = std::env::temp_dir().join(format!("lb-lanes-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("a new folder can be made");
        let place = folder.display();
        let command = |job: &Job| {
            let (me, other) = (&job.title, if job.title == "a" { "b" } else { "a" });
            let wait = format!("for i in $(seq 1000); do [ -e {place}/{other} ] && break; sleep 0.01; done");
            Ok(shell(&format!(
                "echo {me}1; touch {place}/{me}; {wait}; [ -e {place}/{other} ] && echo {me}2"
            )))
        };
        let mut text = Vec::new();
        let outcomes = side_by_side(&[job("a"), job("b"), job("a")], command, &mut text);
        std::fs::remove_dir_all(&folder).expect("the folder was just made");
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(text.starts_with("-- a begins\n"), "{text}");
        assert_eq!(text.matches("\na1\na2\n").count(), 2, "{text}");
        assert_eq!(text.matches("\nb1\nb2\n").count(), 1, "{text}");
        assert!(outcomes.len() == 3 && outcomes.iter().all(|outcome| outcome.failed == 0));
    }

    #[test]
    fn what_does_not_start_is_a_failure() {
        let missing = |_: &Job| Ok(Command::new("/nowhere/at/all"));
        let outcomes = side_by_side(&[job("a")], missing, io::sink());
        assert_eq!(
            outcomes[0].to_string(),
            "a: 0 passed, 1 failed (/nowhere/at/all does not start: No such file or directory (os error 2)), 0.0 s"
        );
    }
}
