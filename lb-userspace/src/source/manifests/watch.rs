//! Follows a folder: its first full list, then its changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::folder::{self, Folder};
use crate::objects::event::Event;
use crate::objects::name::Kind;
use crate::objects::notice::{Notice, Severity};
use crate::source::progress::Progress;

/// A change is read once the folder has been quiet for this long, because editors write in several steps.
const QUIET: Duration = Duration::from_millis(50);
/// A change is read after this time even if the folder is never quiet.
const PATIENCE: Duration = Duration::from_millis(500);
/// Changes that the kernel does not report (the target of a link, a network file system, the folder itself replaced)
/// are found by a check of the files' times at this interval.
const LOOK: Duration = Duration::from_secs(2);

/// The watch of a folder. It ends when this value is dropped.
#[derive(Debug)]
pub struct Watch {
    pub progress: Arc<Progress>,
    /// The thread ends when this sender is dropped.
    _stop: Sender<Never>,
}

#[derive(Debug)]
enum Never {}

/// Sends the events of a folder until the watch or the receiver is dropped. A folder that vanishes later keeps its last
/// good objects.
///
/// # Errors
/// If the folder cannot be read, or the thread cannot be started.
pub fn watch(dir: PathBuf, events: tokio::sync::mpsc::Sender<Event>) -> anyhow::Result<Watch> {
    std::fs::read_dir(&dir).with_context(|| format!("cannot read the folder {}", dir.display()))?;
    let (stop, stopped) = channel();
    let progress = Arc::new(Progress::default());
    let follower =
        Follower { dir, events, folder: Folder::default(), stamps: None, progress: Arc::clone(&progress) };
    thread::Builder::new()
        .name("manifests".to_owned())
        .spawn(move || follower.run(&stopped))
        .context("cannot start a thread")?;
    Ok(Watch { progress, _stop: stop })
}

struct Follower {
    dir: PathBuf,
    events: tokio::sync::mpsc::Sender<Event>,
    folder: Folder,
    stamps: Option<Stamps>,
    progress: Arc<Progress>,
}

/// Name, length and time of each file.
type Stamps = Vec<(std::ffi::OsString, u64, Option<SystemTime>)>;

/// The receiver of the events was dropped.
struct Closed;

impl Follower {
    fn run(mut self, stopped: &Receiver<Never>) {
        let (tell, told) = channel();
        // Without the watcher, changes are still found, only later.
        let _watcher = watcher(&self.dir, tell)
            .inspect_err(|error| tracing::warn!("{}: changes are noticed late: {error}", self.dir.display()));
        while !matches!(stopped.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected)) {
            if self.read().is_err() {
                return;
            }
            loop {
                let is_told = wait(&told);
                if matches!(stopped.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected)) {
                    return;
                }
                if is_told || self.stamps != stamps(&self.dir) {
                    break;
                }
                self.note(self.stamps.is_some());
            }
        }
    }

    fn read(&mut self) -> Result<(), Closed> {
        // Read before the files, so that a change in between is seen next time.
        self.stamps = stamps(&self.dir);
        let name: Arc<str> = self.dir.display().to_string().into();
        match folder::read(&self.dir) {
            Ok(texts) => {
                self.note(true);
                self.send(Event::File { file: name, notices: Vec::new() })?;
                let events = self.folder.update(texts);
                events.into_iter().try_for_each(|event| self.send(event))
            }
            Err(error) => {
                let fault = format!("the folder cannot be read: {error}");
                for kind in Kind::ALL {
                    self.progress.fail(kind, fault.clone());
                }
                let notice = Notice {
                    severity: Severity::Error,
                    subject: None,
                    file: Some(name.clone()),
                    text: format!("{fault}; its last good objects stay in force"),
                    reason: None,
                };
                self.send(Event::File { file: name, notices: vec![notice] })
            }
        }
    }

    /// Notes that the folder was checked and its known state is current. Does nothing if the folder is not there.
    fn note(&self, is_there: bool) {
        for kind in Kind::ALL.into_iter().filter(|_| is_there) {
            self.progress.hear(kind);
            self.progress.succeed(kind);
        }
    }

    fn send(&self, event: Event) -> Result<(), Closed> {
        self.events.blocking_send(event).map_err(|_| Closed)
    }
}

fn watcher(dir: &Path, tell: Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the files is an event too, and would cause the next read.
        let is_reading = event.is_ok_and(|event| match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            EventKind::Access(_) => true,
            _ => false,
        });
        if !is_reading {
            // The follower may have ended already.
            let _ = tell.send(());
        }
    })?;
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Returns true if the folder changed and is quiet now, false if it is only time for a check.
fn wait(told: &Receiver<()>) -> bool {
    match told.recv_timeout(LOOK) {
        Ok(()) => {}
        Err(RecvTimeoutError::Timeout) => return false,
        Err(RecvTimeoutError::Disconnected) => {
            thread::sleep(LOOK);
            return false;
        }
    }
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end && told.recv_timeout(QUIET).is_ok() {}
    true
}

fn stamps(dir: &Path) -> Option<Stamps> {
    let mut stamps: Stamps = std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let metadata = std::fs::metadata(entry.path()).ok()?;
            Some((entry.file_name(), metadata.len(), metadata.modified().ok()))
        })
        .collect();
    stamps.sort();
    Some(stamps)
}
