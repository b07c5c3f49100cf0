//! `lb cleanup`: removes what is ours.

use std::path::Path;

use crate::dataplane::hook::cgroup;
use crate::dataplane::lock;
use crate::dataplane::pins::Pins;
use crate::hooks::links;
use crate::node::netdev::Netdev;

/// Detaches from every link of this network namespace and removes the tables. Returns what was done, in words.
///
/// # Errors
/// If an agent runs, or the kernel refuses.
pub(super) async fn clean_up(pin_dir: &Path) -> anyhow::Result<String> {
    let pins = Pins::new(pin_dir);
    let _lock = lock::take_existing(&pins)?;
    let tables = pins.in_force()?;
    let (netdev, _) = Netdev::connect()?;
    for link in netdev.links().await? {
        links::detach(&pins, &netdev, &link).await?;
    }
    cgroup::detach(&pins)?;
    pins.remove()?;
    Ok(match tables {
        Some(_) => format!("detached, and removed the tables in {}", pin_dir.display()),
        None => {
            format!("there were no tables in {}; no program of ours is left on a link", pin_dir.display())
        }
    })
}
