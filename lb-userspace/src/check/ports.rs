//! Ports that the agent will listen on.

use super::{Line, error, ok, warning};
use crate::dataplane::lock;
use crate::dataplane::pins::Pins;
use crate::sockets;

/// Health and metrics, kube-proxy's own.
const PORTS: [(u16, &str); 2] = [(10_256, "health"), (10_249, "metrics")];

pub fn check(pins: &Pins) -> Vec<Line> {
    PORTS.into_iter().map(|(port, purpose)| one(pins, port, purpose)).collect()
}

fn one(pins: &Pins, port: u16, purpose: &str) -> Line {
    let owner = match sockets::listener(port) {
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
