//! What a check reports.

use serde::Serialize;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// The agent works, but a part of it does not work as it could, or the fact could not be checked.
    Warning,
    /// The agent does not work, or connections are misdirected.
    Error,
}

impl Level {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was checked: a word of docs/check.md.
    pub check: &'static str,
    pub level: Level,
    pub found: String,
    /// What to do; absent if nothing is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// Nothing is in the way.
pub fn ok(check: &'static str, found: impl Into<String>) -> Line {
    Line { check, level: Level::Ok, found: found.into(), advice: None }
}

/// The agent works, but something is to be known.
pub fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Line {
    Line { check, level: Level::Warning, found: found.into(), advice: Some(advice.into()) }
}

/// The agent cannot work.
pub fn error(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Line {
    Line { level: Level::Error, ..warning(check, found, advice) }
}

/// The fact could not be checked.
pub fn unseen(check: &'static str, why: &dyn std::fmt::Display) -> Line {
    warning(check, format!("not seen: {why}"), "run as root, in the network namespace of the node")
}
