//! The files of a folder, and the changes of their objects.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use super::parse::{Object, parse};
use crate::objects::event::{Change, Event};
use crate::objects::name::Subject;
use crate::objects::notice::{Notice, Severity};

/// The content of each manifest by file name, or the reason why it cannot be read.
pub(super) type Texts = BTreeMap<Arc<str>, Result<String, String>>;

/// The state of a folder. It does no I/O: the caller reads the files.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    files: BTreeMap<Arc<str>, File>,
    /// The objects in force.
    objects: BTreeMap<Subject, Object>,
    /// Whether the first full list was sent.
    is_listed: bool,
}

#[derive(Clone, Debug, Default)]
struct File {
    text: Option<String>,
    /// The objects of the last valid text.
    objects: Vec<Object>,
    error: Option<Notice>,
    skipped: Vec<Notice>,
    /// The notices that were last sent.
    notices: Vec<Notice>,
}

impl Folder {
    /// Returns the events that lead to the current content of the files. A broken file keeps the objects of its last
    /// valid text. At the start, a broken file holds everything back: there is no full list until every file can be
    /// read.
    pub fn update(&mut self, texts: BTreeMap<Arc<str>, Result<String, String>>) -> Vec<Event> {
        let gone: Vec<Arc<str>> =
            self.files.keys().filter(|file| !texts.contains_key(*file)).cloned().collect();
        let mut events = Vec::new();
        for file in gone {
            if self.files.remove(&file).is_some_and(|known| !known.notices.is_empty()) {
                events.push(Event::File { file, notices: Vec::new() });
            }
        }
        for (name, text) in texts {
            self.files.entry(name.clone()).or_default().read(&name, text);
        }
        let (objects, doubles) = self.merge();
        self.say(doubles, &mut events);
        if self.is_listed {
            changes(&self.objects, &objects, &mut events);
            self.objects = objects;
        } else if self.errors().next().is_none() {
            self.is_listed = true;
            events.extend([
                Event::Service(Change::Init),
                Event::Slice(Change::Init),
                Event::Node(Change::Init),
                Event::ServiceCidr(Change::Init),
            ]);
            changes(&self.objects, &objects, &mut events);
            events.extend([
                Event::Service(Change::InitDone),
                Event::Slice(Change::InitDone),
                Event::Node(Change::InitDone),
                Event::ServiceCidr(Change::InitDone),
            ]);
            self.objects = objects;
        }
        events
    }

    /// The errors of the files that are broken now.
    pub fn errors(&self) -> impl Iterator<Item = &Notice> {
        self.files.values().filter_map(|file| file.error.as_ref())
    }

    /// The objects of all files, and errors about duplicates: the first object by file name, then by position, counts.
    fn merge(&self) -> (BTreeMap<Subject, Object>, BTreeMap<Arc<str>, Vec<Notice>>) {
        let mut objects = BTreeMap::new();
        let mut owners: BTreeMap<Subject, &Arc<str>> = BTreeMap::new();
        let mut doubles: BTreeMap<Arc<str>, Vec<Notice>> = BTreeMap::new();
        for (name, file) in &self.files {
            for object in &file.objects {
                let subject = object.subject();
                if let Some(owner) = owners.get(&subject) {
                    let text = match *owner == name {
                        true => "is defined twice in this file; the first definition counts".to_owned(),
                        false => format!("is also defined in {owner}, and that definition counts"),
                    };
                    let notice = Notice {
                        severity: Severity::Error,
                        subject: Some(subject),
                        file: Some(name.clone()),
                        text,
                        reason: None,
                    };
                    doubles.entry(name.clone()).or_default().push(notice);
                } else {
                    owners.insert(subject.clone(), name);
                    objects.insert(subject, object.clone());
                }
            }
        }
        (objects, doubles)
    }

    /// Adds an event for each file whose notices changed.
    fn say(&mut self, mut doubles: BTreeMap<Arc<str>, Vec<Notice>>, events: &mut Vec<Event>) {
        let is_listed = self.is_listed;
        for (name, file) in &mut self.files {
            let mut notices = doubles.remove(name).unwrap_or_default();
            notices.extend(file.skipped.iter().cloned());
            notices.extend(file.error.clone().map(|error| {
                let consequence = match (is_listed, file.objects.is_empty()) {
                    (false, _) => "nothing is applied until this is corrected",
                    (true, true) => "the file is not used",
                    (true, false) => "its last good objects stay in force",
                };
                Notice { text: format!("{}; {consequence}", error.text), ..error }
            }));
            if notices != file.notices {
                file.notices.clone_from(&notices);
                events.push(Event::File { file: name.clone(), notices });
            }
        }
    }
}

impl File {
    fn read(&mut self, name: &Arc<str>, text: Result<String, String>) {
        let text = match text {
            Ok(text) => text,
            Err(reason) => {
                self.text = None;
                self.error = Some(Notice {
                    severity: Severity::Error,
                    subject: None,
                    file: Some(name.clone()),
                    text: format!("cannot be read: {reason}"),
                    reason: None,
                });
                return;
            }
        };
        if self.text.as_ref() == Some(&text) {
            return;
        }
        // The file is probably about to be written: `kubectl get ... > file` empties it first.
        if text.is_empty() && !self.objects.is_empty() {
            self.error = Some(Notice {
                severity: Severity::Error,
                subject: None,
                file: Some(name.clone()),
                text: "is empty (write `---` into a file without objects)".to_owned(),
                reason: None,
            });
            self.text = Some(text);
            return;
        }
        match parse(name, &text) {
            Ok(parsed) => {
                self.objects = parsed.objects;
                self.skipped = parsed.notices;
                self.error = None;
            }
            Err(error) => self.error = Some(error),
        }
        self.text = Some(text);
    }
}

/// Adds new and changed objects first, so that an endpoint that moves between files never disappears. Services follow
/// the other kinds, so that a new Service is never without the endpoints that came with it.
fn changes(before: &BTreeMap<Subject, Object>, after: &BTreeMap<Subject, Object>, events: &mut Vec<Event>) {
    let changed = after.iter().filter(|(subject, object)| before.get(subject) != Some(object));
    let (services, others): (Vec<_>, Vec<_>) =
        changed.partition(|(_, object)| matches!(object, Object::Service(_)));
    events.extend(others.into_iter().chain(services).map(|(_, object)| object.clone().applied()));
    for (subject, object) in before.iter().filter(|(subject, _)| !after.contains_key(subject)) {
        let name = subject.name.clone();
        events.push(match object {
            Object::Service(_) => Event::Service(Change::Delete(name)),
            Object::Slice(_) => Event::Slice(Change::Delete(name)),
            Object::Node(_) => Event::Node(Change::Delete(name)),
            Object::ServiceCidr(_) => Event::ServiceCidr(Change::Delete(name)),
        });
    }
}

/// Reads the manifests of a folder: `*.yaml`, `*.yml` and `*.json` that are not hidden. Symbolic links are followed,
/// because mounted ConfigMaps consist of them.
pub(super) fn read(dir: &Path) -> io::Result<Texts> {
    let mut texts = Texts::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let is_manifest = [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending));
        if name.starts_with('.') || !is_manifest || path.is_dir() {
            continue;
        }
        match fs::read_to_string(&path) {
            Ok(text) => texts.insert(name.into(), Ok(text)),
            // The file vanished after the listing, for example because an editor renamed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => texts.insert(name.into(), Err(error.to_string())),
        };
    }
    Ok(texts)
}
