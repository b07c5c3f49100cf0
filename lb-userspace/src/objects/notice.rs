//! What an operator should know about an object, said once while it lasts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::name::Subject;

/// Something about an object that keeps it from working as it reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    pub severity: Severity,
    /// The object; `None` where a whole file is meant.
    pub subject: Option<Subject>,
    /// Where the object was read from; `None` where it came from the Kubernetes API.
    pub file: Option<Arc<str>>,
    pub text: String,
    /// What an Event about the object gives as reason; `None` where none is due.
    pub reason: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Legal, and perhaps only for a moment.
    Info,
    /// Something is not done that the object asks for.
    Warning,
    /// The object or the file cannot be used.
    Error,
}

/// Something in an object that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub severity: Severity,
    pub text: String,
    /// What an Event gives as reason; `None` where none is due.
    pub reason: Option<&'static str>,
}

impl Problem {
    pub(crate) fn new(severity: Severity, text: impl Into<String>) -> Self {
        Self { severity, text: text.into(), reason: None }
    }

    /// With an Event.
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

/// The notices that last, by where they come from, and those that nobody was told yet.
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
    /// These are all that `source` has to say now.
    pub(crate) fn replace(&mut self, source: Source, notices: impl IntoIterator<Item = Notice>) {
        let notices: BTreeSet<Notice> = notices.into_iter().collect();
        let before = self.current.remove(&source).unwrap_or_default();
        self.news.extend(notices.difference(&before).cloned());
        if !notices.is_empty() {
            self.current.insert(source, notices);
        }
    }

    /// What began since the last call.
    pub(crate) fn take_news(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.news)
    }

    /// What `source` has to say now.
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
