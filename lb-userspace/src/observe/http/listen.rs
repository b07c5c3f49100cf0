//! Listens on ports that another process may use.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::node::listener;

/// The time until a port is tried again (the same as in kube-proxy).
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// One server on one port.
pub(super) struct Server {
    /// The name of the server in the log.
    pub(super) what: &'static str,
    /// The flag that changes the address.
    pub(super) flag: &'static str,
    pub(super) address: SocketAddr,
    /// Receives the error of a port that cannot be opened. The port is then not tried again.
    pub(super) fatal: Option<mpsc::Sender<anyhow::Error>>,
}

impl Server {
    /// Runs until it is dropped.
    pub(super) async fn run(self, router: Router) {
        let mut said = None;
        loop {
            let failed = match bind(self.address) {
                Ok(listener) => {
                    info!(address = %self.address, "{} listens", self.what);
                    said = None;
                    match axum::serve(listener, router.clone()).await {
                        Ok(()) => "the server ended".to_owned(),
                        Err(error) => error.to_string(),
                    }
                }
                Err(error) => explain(self.address, &error),
            };
            let text = format!(
                "{} cannot listen on {}: {failed} ({} changes the address)",
                self.what, self.address, self.flag
            );
            if let Some(fatal) = &self.fatal {
                // If nothing receives, the loop is already ending.
                let _ = fatal.send(anyhow::anyhow!(text)).await;
                return;
            }
            if said.as_ref() != Some(&text) {
                warn!("{text}; trying again every {} s", RETRY_AFTER.as_secs());
                said = Some(text);
            }
            sleep(RETRY_AFTER).await;
        }
    }
}

/// Explains a failure to listen, with the process that uses the port, if it can be seen.
pub(super) fn explain(address: SocketAddr, error: &io::Error) -> String {
    if error.kind() != io::ErrorKind::AddrInUse {
        return error.to_string();
    }
    match listener::of(address.port()) {
        Ok(Some(owner)) => format!("the port is in use by {owner}"),
        _ => "the address is in use".to_owned(),
    }
}

/// Listens as Go does (`net.Listen("tcp", ..)`): an unspecified address of either family means all addresses of both.
///
/// # Errors
/// If the kernel refuses to open the port.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_unspecified() {
        return open(address, true);
    }
    let port = address.port();
    match open((Ipv6Addr::UNSPECIFIED, port).into(), false) {
        Err(error) if has_no_ipv6(&error) => open((Ipv4Addr::UNSPECIFIED, port).into(), true),
        outcome => outcome,
    }
}

/// Listens as Go does with `tcp4` or `tcp6`: on addresses of one family.
pub(super) fn bind_one_family(address: SocketAddr) -> io::Result<TcpListener> {
    open(address, true)
}

fn open(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// Whether the kernel was built or booted without IPv6.
fn has_no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}
