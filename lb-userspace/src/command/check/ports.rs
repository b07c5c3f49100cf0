//! Ports that the agent will listen on.

use super::{Line, error, ok, warning};
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
            ok("ports", format!("{port} ({purpose}) is the agent's that runs"))
        }
        Some("kube-proxy") => warning("ports", taken, "it is free when kube-proxy is gone"),
        _ => error("ports", taken, "stop it, or move it to another port"),
    }
}
