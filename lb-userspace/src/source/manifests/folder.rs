//! The files of a folder, and what changed in their objects.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use super::parse::{Object, parse};
use crate::objects::event::{Change, Event};
use crate::objects::name::Subject;
use crate::objects::notice::{Notice, Severity};

/// The content of each manifest by file name, or why it cannot be had.
pub(super) type Texts = BTreeMap<Arc<str>, Result<String, String>>;

/// What is known of a folder. Pure: the texts come from outside.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    files: BTreeMap<Arc<str>, File>,
    /// The objects in force.
    objects: BTreeMap<Subject, Object>,
    /// The first full list went out.
    is_listed: bool,
}

#[derive(Clone, Debug, Default)]
struct File {
    text: Option<String>,
    /// Of the last text that was whole.
    objects: Vec<Object>,
    error: Option<Notice>,
    skipped: Vec<Notice>,
    /// As they were last said.
    notices: Vec<Notice>,
}

impl Folder {
    /// The events that lead to what the files say now. A broken file keeps the objects of its last whole text. At
    /// first, a broken file holds everything back: there is no full list before every file was read.
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

    /// Files that are broken now.
    pub fn errors(&self) -> impl Iterator<Item = &Notice> {
        self.files.values().filter_map(|file| file.error.as_ref())
    }

    /// The same object in two files, or twice in one: the first by file name, then by place, counts.
    fn merge(&self) -> (BTreeMap<Subject, Object>, BTreeMap<Arc<str>, Vec<Notice>>) {
        let mut objects = BTreeMap::new();
        let mut owners: BTreeMap<Subject, &Arc<str>> = BTreeMap::new();
        let mut doubles: BTreeMap<Arc<str>, Vec<Notice>> = BTreeMap::new();
        for (name, file) in &self.files {
            for object in &file.objects {
                let subject = object.subject();
                if let Some(owner) = owners.get(&subject) {
                    let text = match *owner == name {
                        true => "stands twice in this file; the first counts".to_owned(),
                        false => format!("stands in {owner} too, and that one counts"),
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

    /// What is to say of each file, where that changed.
    fn say(&mut self, mut doubles: BTreeMap<Arc<str>, Vec<Notice>>, events: &mut Vec<Event>) {
        let is_listed = self.is_listed;
        for (name, file) in &mut self.files {
            let mut notices = doubles.remove(name).unwrap_or_default();
            notices.extend(file.skipped.iter().cloned());
            notices.extend(file.error.clone().map(|error| {
                let consequence = match (is_listed, file.objects.is_empty()) {
                    (false, _) => "nothing is applied until this is mended",
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
        // Somebody is about to write it: `kubectl get ... > file` empties it first.
        if text.is_empty() && !self.objects.is_empty() {
            self.error = Some(Notice {
                severity: Severity::Error,
                subject: None,
                file: Some(name.clone()),
                text: "is empty (a file without objects has `---` in it)".to_owned(),
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

/// New and changed objects first, so that an endpoint that moves between files is never away; and Services after
/// the others, so that a new one is never without the endpoints that came with it.
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

/// The manifests of a folder: `*.yaml`, `*.yml` and `*.json` that are not hidden. Symbolic links are followed, as
/// mounted ConfigMaps need it.
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
            // Gone between the listing and now, as a file that an editor renames.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => texts.insert(name.into(), Err(error.to_string())),
        };
    }
    Ok(texts)
}
