//! Capabilities of this process.

use super::line::{Line, error, ok, unseen};
use crate::node::capabilities::{NEEDED, missing};

pub fn check() -> Vec<Line> {
    let missing = match missing() {
        Ok(missing) => missing,
        Err(error) => return vec![unseen("capabilities", &error)],
    };
    if missing.is_empty() {
        let names: Vec<&str> = NEEDED.iter().map(|capability| capability.name).collect();
        return vec![ok("capabilities", names.join(", "))];
    }
    let lacks = missing.iter().map(|capability| {
        error(
            "capabilities",
            format!("{} is missing, for {}", capability.name, capability.purpose),
            format!(
                "run as root, or add {} to the container's securityContext",
                capability.name.trim_start_matches("CAP_")
            ),
        )
    });
    lacks.collect()
}
