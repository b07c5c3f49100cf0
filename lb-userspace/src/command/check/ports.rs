//! The ports on which the agent will listen.

use super::line::{Line, error, ok, warning};
use crate::config::Settings;
use crate::dataplane::lock;
use crate::dataplane::pins::Pins;
use crate::node::listener;

pub fn check(pins: &Pins, settings: &Settings) -> Vec<Line> {
    let wanted = [(settings.healthz, "health"), (settings.metrics, "metrics")];
    let wanted = wanted.into_iter().filter_map(|(address, purpose)| Some((address?.port(), purpose)));
    wanted.map(|(port, purpose)| one(pins, port, purpose)).collect()
}

fn one(pins: &Pins, port: u16, purpose: &str) -> Line {
    let owner = match listener::of(port) {
        Ok(Some(owner)) => owner,
        Ok(None) => return ok("ports", format!("{port} ({purpose}) is free")),
        Err(error) => return super::unseen("ports", &error),
    };
    let taken = format!("{port} ({purpose}) is taken by {owner}");
    match owner.name.as_deref() {
        Some("lb") if lock::is_taken(pins) => {
            ok("ports", format!("{port} ({purpose}) is used by the running agent"))
        }
        Some("kube-proxy") => warning("ports", taken, "the port will be free once kube-proxy is removed"),
        _ => error("ports", taken, "stop this process, or move it to another port"),
    }
}
