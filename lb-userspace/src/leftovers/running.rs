//! Is there a kube-proxy that would write everything anew?

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// How it is known that kube-proxy runs: one reason each.
pub fn running() -> Vec<String> {
    let processes = processes("kube-proxy").into_iter().map(|pid| format!("process {pid} is a kube-proxy"));
    let mode = proxy_mode().map(|mode| {
        format!("http://127.0.0.1:{METRICS_PORT}/proxyMode says {mode} (in k3s, kube-proxy is a part of it)")
    });
    let processes: Vec<String> = processes.collect();
    // Where the process is seen, its port says nothing new.
    if processes.is_empty() { mode.into_iter().collect() } else { processes }
}

const METRICS_PORT: u16 = 10_249;

/// Processes of this name in our network namespace, as far as /proc shows them. Those of another one (nodes
/// that are containers of this machine) write no rules here.
pub fn processes(name: &str) -> Vec<u32> {
    let ours = fs::read_link("/proc/thread-self/ns/net").ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let folder = Path::new("/proc").join(pid.to_string());
            let is_named = fs::read_to_string(folder.join("comm")).is_ok_and(|comm| comm.trim() == name);
            // Not ours to read: it may be in our namespace.
            is_named && fs::read_link(folder.join("ns/net")).map_or(true, |theirs| Some(theirs) == ours)
        })
        .collect();
    found.sort_unstable();
    found
}

/// What kube-proxy's metrics port says of its mode; `None` where nobody or somebody else answers (`lb agent`
/// serves the same path).
fn proxy_mode() -> Option<String> {
    const LIMIT: Duration = Duration::from_secs(1);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT));
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    stream.write_all(b"GET /proxyMode HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    // A server that never ends its answer must not hold us.
    stream.take(4096).read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let (_, body) = answer.split_once("\r\n\r\n")?;
    ["iptables", "nftables", "ipvs"].into_iter().find(|mode| *mode == body.trim()).map(str::to_owned)
}
