//! What an operator should know about an object. A notice is reported once while it lasts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::name::Subject;

/// A reason why an object does not work as written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    pub severity: Severity,
    /// `None` if the notice is about a whole file.
    pub subject: Option<Subject>,
    /// The file of the object; `None` if the object came from the Kubernetes API.
    pub file: Option<Arc<str>>,
    pub text: String,
    /// The reason of the Kubernetes Event about the object; `None` if no Event is due.
    pub reason: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The state is legal, and perhaps only temporary.
    Info,
    /// Something that the object asks for is not done.
    Warning,
    /// The object or the file cannot be used.
    Error,
}

/// A part of an object that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub severity: Severity,
    pub text: String,
    /// The reason of the Kubernetes Event; `None` if no Event is due.
    pub reason: Option<&'static str>,
}

impl Problem {
    pub(crate) fn new(severity: Severity, text: impl Into<String>) -> Self {
        Self { severity, text: text.into(), reason: None }
    }

    /// The same problem, with an Event.
    pub(crate) fn told(self, reason: &'static str) -> Self {
        Self { reason: Some(reason), ..self }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}: ")?;
        }
        if let Some(subject) = &self.subject {
            write!(f, "{subject}: ")?;
        }
        f.write_str(&self.text)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// The current notices by source, and those that were not reported yet.
#[derive(Clone, Debug)]
pub(crate) struct Board<Source> {
    current: BTreeMap<Source, BTreeSet<Notice>>,
    news: Vec<Notice>,
}

impl<Source> Default for Board<Source> {
    fn default() -> Self {
        Self { current: BTreeMap::new(), news: Vec::new() }
    }
}

impl<Source: Ord> Board<Source> {
    /// Sets all current notices of `source`.
    pub(crate) fn replace(&mut self, source: Source, notices: impl IntoIterator<Item = Notice>) {
        let notices: BTreeSet<Notice> = notices.into_iter().collect();
        let before = self.current.remove(&source).unwrap_or_default();
        self.news.extend(notices.difference(&before).cloned());
        if !notices.is_empty() {
            self.current.insert(source, notices);
        }
    }

    /// Takes the notices that began since the last call.
    pub(crate) fn take_news(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.news)
    }

    /// The current notices of `source`.
    pub(crate) fn of(&self, source: &Source) -> impl Iterator<Item = &Notice> + use<'_, Source> {
        self.current.get(source).into_iter().flatten()
    }

    pub(crate) fn current(&self) -> impl Iterator<Item = &Notice> {
        self.current.values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(text: &str) -> Notice {
        Notice { severity: Severity::Warning, subject: None, file: None, text: text.into(), reason: None }
    }

    #[test]
    fn a_notice_is_said_again_only_after_it_ended() {
        let mut board = Board::default();
        board.replace(1, [notice("a")]);
        board.replace(1, [notice("a"), notice("b")]);
        assert_eq!(board.take_news(), [notice("a"), notice("b")]);
        board.replace(1, [notice("b")]);
        board.replace(1, [notice("a"), notice("b")]);
        assert_eq!(board.take_news(), [notice("a")]);
        assert_eq!(board.current().count(), 2);
    }
}
