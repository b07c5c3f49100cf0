//! Addresses and protocols as objects write them.

use std::net::IpAddr;

use lb_common::{Addr, Proto};

/// An address that can stand in the tables. Refused: no address, IPv4 written as IPv6, and those that no packet on
/// a wire may have.
pub(super) fn address(text: &str) -> Result<Addr, String> {
    let ip: IpAddr = text.trim().parse().map_err(|_| format!("\"{text}\" is not an IP address"))?;
    if ip != ip.to_canonical() {
        return Err(format!("\"{text}\" is an IPv4-mapped IPv6 address; write it as IPv4"));
    }
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
        return Err(format!("{ip} cannot be reached through a Service"));
    }
    Ok(ip.into())
}

/// A transport protocol; the API's default is TCP.
pub(super) fn protocol(text: Option<&str>) -> Result<Proto, String> {
    match text {
        None | Some("TCP") => Ok(Proto::Tcp),
        Some("UDP") => Ok(Proto::Udp),
        Some("SCTP") => Ok(Proto::Sctp),
        Some(other) => Err(format!("protocol \"{other}\" is not supported")),
    }
}
