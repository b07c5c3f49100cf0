//! One request over TCP or UDP, from the namespace of the calling thread.

use super::failure::{Failure, Kind};
use socket2::{Domain, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// Connects, reads the backend's name, checks that a line is echoed, and closes. Returns the name.
pub fn tcp_request(target: SocketAddr, timeout: Duration) -> Result<String, Failure> {
    let mut stream = connect_from(0, target, timeout)?;
    let local = stream.local_addr().ok();
    let told = |error: io::Error| Failure::new(&error, target, local);
    let backend = read_line(&mut stream).map_err(told)?;
    echo_line(&mut stream, "are you there?").map_err(|kind| Failure::new(kind, target, local))?;
    Ok(backend)
}

/// Sends a datagram from a new socket and checks the answer. Returns the backend's name.
pub fn udp_request(target: SocketAddr, timeout: Duration) -> Result<String, Failure> {
    let socket = udp_from(0, target).map_err(|error| Failure::new(&error, target, None))?;
    let local = socket.local_addr().ok();
    ask(&socket, target, "are you there?", timeout).map_err(|kind| Failure::new(kind, target, local))
}

/// A TCP connection from a given port of the client (0 for any), with timeouts set.
pub fn connect_from(port: u16, target: SocketAddr, timeout: Duration) -> Result<TcpStream, Failure> {
    let open = || {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        if port != 0 {
            // The port may be in use with another address.
            socket.set_reuse_address(true)?;
            socket.bind(&unspecified(target, port).into())?;
        }
        socket.connect_timeout(&target.into(), timeout)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(stream)
    };
    let local = (port != 0).then(|| unspecified(target, port));
    open().map_err(|error: io::Error| Failure::new(&error, target, local))
}

/// A UDP socket on a given port of the client (0 for any), not connected, so that it receives from every source.
pub(super) fn udp_from(port: u16, target: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind(unspecified(target, port))
}

fn unspecified(target: SocketAddr, port: u16) -> SocketAddr {
    let any =
        if target.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(any, port)
}

/// Sends a datagram. The answer must come from the target and consist of a name and the datagram. Returns the name.
pub(super) fn ask(
    socket: &UdpSocket,
    target: SocketAddr,
    question: &str,
    timeout: Duration,
) -> Result<String, Kind> {
    let told = |error: io::Error| Kind::from(&error);
    socket.set_read_timeout(Some(timeout)).map_err(told)?;
    socket.send_to(question.as_bytes(), target).map_err(told)?;
    let mut buffer = [0; 2_048];
    let (len, from) = socket.recv_from(&mut buffer).map_err(told)?;
    if from != target {
        return Err(Kind::WrongSource(from));
    }
    let answer = String::from_utf8_lossy(&buffer[..len]);
    match answer.split_once(' ') {
        Some((name, rest)) if rest == question => Ok(name.into()),
        _ => Err(Kind::WrongAnswer(answer.into_owned())),
    }
}

/// Reads up to a newline, and no byte more.
pub(super) fn read_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        match byte {
            [b'\n'] => return Ok(String::from_utf8_lossy(&line).into_owned()),
            [byte] => line.push(byte),
        }
    }
}

/// Writes a line and reads it back.
pub(super) fn echo_line(stream: &mut TcpStream, line: &str) -> Result<(), Kind> {
    let told = |error: io::Error| Kind::from(&error);
    stream.write_all(format!("{line}\n").as_bytes()).map_err(told)?;
    let echoed = read_line(stream).map_err(told)?;
    if echoed == line { Ok(()) } else { Err(Kind::WrongAnswer(echoed)) }
}
