//! The configuration of kube-proxy that the agent is to read.

use super::{Line, error, ok, warning};
use crate::config::{Flags, Settings};

/// What is said of it, and what it means; `None` where it cannot be read.
pub fn check(flags: &Flags) -> (Vec<Line>, Option<Settings>) {
    let settings = match Settings::new(flags) {
        Ok(settings) => settings,
        Err(failed) => {
            let line = error("config", format!("{failed:#}"), "mend it: the agent ends with these words");
            return (vec![line], None);
        }
    };
    let Some(file) = &flags.config else { return (Vec::new(), Some(settings)) };
    let warnings = settings.remarks.iter().filter(|remark| remark.is_warning);
    let mut lines: Vec<Line> = warnings
        .map(|remark| warning("config", remark.to_string(), "docs/config.md tells of each field"))
        .collect();
    if lines.is_empty() {
        lines.push(ok("config", format!("{} is read, and what it asks for is done", file.display())));
    }
    (lines, Some(settings))
}
