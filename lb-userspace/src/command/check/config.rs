//! The configuration of kube-proxy that the agent will read.

use super::line::{Line, error, ok, warning};
use crate::config::{Flags, Settings};

/// The findings, and the settings that result; `None` if the configuration cannot be read.
pub fn check(flags: &Flags) -> (Vec<Line>, Option<Settings>) {
    let settings = match Settings::new(flags) {
        Ok(settings) => settings,
        Err(failed) => {
            let line =
                error("config", format!("{failed:#}"), "correct it; the agent exits with the same message");
            return (vec![line], None);
        }
    };
    let Some(file) = &flags.config else { return (Vec::new(), Some(settings)) };
    let warnings = settings.remarks.iter().filter(|remark| remark.is_warning);
    let mut lines: Vec<Line> = warnings
        .map(|remark| warning("config", remark.to_string(), "docs/config.md explains each field"))
        .collect();
    if lines.is_empty() {
        lines.push(ok("config", format!("{} is valid, and lb does what it asks for", file.display())));
    }
    (lines, Some(settings))
}
