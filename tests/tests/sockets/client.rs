//! What processes do with their sockets.

use anyhow::Result;
use lb_tests::world::Family;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

pub const LIMIT: Duration = Duration::from_secs(5);

/// Opens a TCP connection to a Service and reads the line with its backend's name.
pub fn connect(to: SocketAddr) -> std::io::Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut name = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        name.push(byte[0]);
    }
    Ok((stream, String::from_utf8_lossy(&name).into_owned()))
}

/// A UDP socket without a peer.
pub fn udp(local: IpAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((local, 0))?;
    socket.set_read_timeout(Some(LIMIT))?;
    Ok(socket)
}

/// The unspecified address.
pub fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Sends a datagram; returns the name of the backend that answers and the apparent source of the answer.
pub fn ask(socket: &UdpSocket, to: SocketAddr) -> std::io::Result<(String, SocketAddr)> {
    socket.send_to(b"hello", to)?;
    hear(socket)
}

/// Receives an answer; returns the name of the backend and the apparent source.
pub fn hear(socket: &UdpSocket) -> std::io::Result<(String, SocketAddr)> {
    let mut answer = [0; 64];
    let (len, from) = socket.recv_from(&mut answer)?;
    let text = String::from_utf8_lossy(&answer[..len]).into_owned();
    Ok((text.split(' ').next().unwrap_or_default().to_owned(), from))
}

/// The errors with which TCP and UDP to an address fail at once.
pub fn refusals(to: SocketAddr) -> Result<[Option<ErrorKind>; 2]> {
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    let tcp = TcpStream::connect_timeout(&to, LIMIT).err();
    let udp = udp(any(family))?.send_to(b"x", to).err();
    Ok([tcp, udp].map(|error| error.map(|error| error.kind())))
}
