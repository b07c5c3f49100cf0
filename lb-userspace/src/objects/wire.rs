//! Addresses and protocols in the notation of objects.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;
use lb_common::{Addr, Port, Proto};

/// Parses an address for the tables. Refuses IPv4 addresses written as IPv6, and addresses that no packet on a wire may
/// have.
pub(crate) fn address(text: &str) -> Result<Addr, String> {
    let ip: IpAddr = decimal(text.trim()).parse().map_err(|_| format!("\"{text}\" is not an IP address"))?;
    if ip != ip.to_canonical() {
        return Err(format!("\"{text}\" is an IPv4-mapped IPv6 address; write it as IPv4"));
    }
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
        return Err(format!("{ip} cannot be reached through a Service"));
    }
    Ok(ip.into())
}

/// Parses a prefix. Bits after the prefix length are cleared.
pub(crate) fn net(text: &str) -> Result<IpNet, String> {
    let net: Result<IpNet, _> = decimal(text.trim()).parse();
    match net.map(|net| net.trunc()) {
        Ok(IpNet::V6(net)) if net.addr().to_ipv4_mapped().is_some() => {
            Err(format!("\"{text}\" is an IPv4-mapped IPv6 prefix; write it as IPv4"))
        }
        Ok(net) => Ok(net),
        Err(_) => Err(format!("\"{text}\" is not a prefix (ADDRESS/LENGTH)")),
    }
}

/// Old objects may have leading zeros in IPv4 addresses, which kube-proxy reads as decimal (k8s.io/utils/net,
/// ParseIPSloppy).
fn decimal(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let is_padded = |at: usize| {
        bytes[at] == b'0'
            && bytes.get(at + 1).is_some_and(u8::is_ascii_digit)
            && (at == 0 || !bytes[at - 1].is_ascii_digit())
    };
    if text.contains(':') || !(0..bytes.len()).any(is_padded) {
        return Cow::Borrowed(text);
    }
    let (address, length) = text.split_at(text.find('/').unwrap_or(text.len()));
    let octets = address.split('.').map(|octet| match octet.trim_start_matches('0') {
        "" if !octet.is_empty() => "0",
        trimmed => trimmed,
    });
    Cow::Owned(octets.collect::<Vec<_>>().join(".") + length)
}

/// Parses a transport protocol. The API's default is TCP.
pub(crate) fn protocol(text: Option<&str>) -> Result<Proto, String> {
    match text {
        None | Some("" | "TCP") => Ok(Proto::Tcp),
        Some("UDP") => Ok(Proto::Udp),
        Some("SCTP") => Ok(Proto::Sctp),
        Some(other) => Err(format!("protocol \"{other}\" is not supported")),
    }
}

/// `address:port`, with IPv6 addresses in brackets.
pub(crate) fn authority(addr: Addr, port: Port) -> String {
    std::net::SocketAddr::new(addr.into(), port.host()).to_string()
}
