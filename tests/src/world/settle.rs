//! Waits until links carry packets and addresses can be used.

use super::netns::{Netns, run};
use anyhow::{Result, bail};
use serde_json::Value;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(10);

/// Returns once every link of these namespaces is up and no address is tentative.
pub(super) fn settle<'a>(namespaces: impl Iterator<Item = &'a Netns>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    for netns in namespaces {
        loop {
            let waiting = unsettled(netns)?;
            if waiting.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                bail!("after {LIMIT:?}, namespace {} still waits for {}", netns.name(), waiting.join(", "));
            }
            sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

fn unsettled(netns: &Netns) -> Result<Vec<String>> {
    let json = run(Command::new("ip").args(["-n", netns.name(), "-j", "addr", "show"]))?;
    let links: Vec<Value> = serde_json::from_str(&json)?;
    let mut waiting = Vec::new();
    for link in &links {
        let name = link["ifname"].as_str().unwrap_or("?");
        // The kernel never reports a loopback link as UP, and it makes tunnel links itself that stay down.
        let is_ours = link["link_type"] == "ether";
        if is_ours && link["operstate"] != "UP" {
            waiting.push(name.to_string());
        }
        for address in link["addr_info"].as_array().into_iter().flatten() {
            if is_ours && address["tentative"] == true {
                waiting.push(format!("{} on {name}", address["local"]));
            }
        }
    }
    Ok(waiting)
}
