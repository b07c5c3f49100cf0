//! Whether a kube-proxy runs that would write everything again.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// A phrase for each sign that kube-proxy runs.
pub fn running() -> Vec<String> {
    let processes = processes("kube-proxy").into_iter().map(|pid| format!("process {pid} is a kube-proxy"));
    let processes: Vec<String> = processes.collect();
    // If the process is seen, its port says nothing new.
    if !processes.is_empty() {
        return processes;
    }
    let url = format!("http://127.0.0.1:{METRICS_PORT}/proxyMode");
    match proxy_mode() {
        Ok(None) => Vec::new(),
        Ok(Some(mode)) => vec![format!("{url} says {mode} (in k3s, kube-proxy is a part of it)")],
        Err(error) => vec![format!("it may be the process that has {url}, which does not answer: {error}")],
    }
}

const METRICS_PORT: u16 = 10_249;

/// Processes of this name in our network namespace, as far as /proc shows them. Processes of another namespace (nodes
/// that are containers of this machine) write no rules here.
pub fn processes(name: &str) -> Vec<u32> {
    let ours = fs::read_link("/proc/thread-self/ns/net").ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let folder = Path::new("/proc").join(pid.to_string());
            let is_named = fs::read_to_string(folder.join("comm")).is_ok_and(|comm| comm.trim() == name);
            // If the namespace cannot be read, it may be ours.
            is_named && fs::read_link(folder.join("ns/net")).map_or(true, |theirs| Some(theirs) == ours)
        })
        .collect();
    found.sort_unstable();
    found
}

/// The mode that kube-proxy's metrics port reports; `None` if no process listens, or another program answers
/// (`lb agent` serves the same path).
///
/// # Errors
/// If a process listens and does not answer: a node may be too busy.
fn proxy_mode() -> io::Result<Option<String>> {
    const LIMIT: Duration = Duration::from_secs(3);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT));
    let mut stream = match TcpStream::connect_timeout(&address, LIMIT) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
        // The connection is refused, or there is no loopback.
        Err(_) => return Ok(None),
    };
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"GET /proxyMode HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    // A server that never ends its answer must not block us.
    match stream.take(4096).read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => return Err(error),
        _ => {}
    }
    let answer = String::from_utf8_lossy(&answer);
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.trim());
    Ok(["iptables", "nftables", "ipvs"].into_iter().find(|mode| Some(*mode) == body).map(str::to_owned))
}
