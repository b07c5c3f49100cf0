//! One long transfer, compared byte for byte.

use super::failure::{Failure, Kind};
use super::request::{connect_from, read_line};
use crate::world::Netns;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const PIECE: usize = 256 << 10;
const TIMEOUT: Duration = Duration::from_secs(10);

/// A transfer that came back complete.
#[derive(Clone, Debug)]
pub struct Transfer {
    pub backend: String,
    /// In one direction.
    pub bytes: u64,
    pub time: Duration,
}

/// Sends this many MiB of noise to an echo server through one TCP connection; the same bytes must come back.
pub fn transfer(netns: &Netns, target: SocketAddr, mebibytes: usize) -> Result<Transfer, Failure> {
    netns.enter(|| transfer_here(target, mebibytes << 20))
}

fn transfer_here(target: SocketAddr, bytes: usize) -> Result<Transfer, Failure> {
    let began = Instant::now();
    let mut stream = connect_from(0, target, TIMEOUT)?;
    let local = stream.local_addr().ok();
    let failed = |kind: Kind| Failure::new(kind, target, local);
    let backend = read_line(&mut stream).map_err(|error| failed((&error).into()))?;
    let writer = stream.try_clone().map_err(|error| failed((&error).into()))?;
    let (sent, received) = thread::scope(|scope| {
        let sending = scope.spawn(|| send(writer, bytes));
        let received = receive(stream, bytes);
        (sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), received)
    });
    // The receiver's error comes first: a wrong byte matters more than the broken pipe that follows.
    received.map_err(failed)?;
    sent.map_err(|error| failed((&error).into()))?;
    Ok(Transfer { backend, bytes: bytes as u64, time: began.elapsed() })
}

/// The same bytes for both ends, made piece by piece.
fn pieces(bytes: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut noise = fastrand::Rng::with_seed(bytes as u64);
    (0..bytes).step_by(PIECE).map(move |at| {
        let mut piece = vec![0; PIECE.min(bytes - at)];
        noise.fill(&mut piece);
        piece
    })
}

fn send(mut stream: TcpStream, bytes: usize) -> std::io::Result<()> {
    for piece in pieces(bytes) {
        stream.write_all(&piece)?;
    }
    stream.shutdown(Shutdown::Write)
}

fn receive(mut stream: TcpStream, bytes: usize) -> Result<(), Kind> {
    let mut buffer = vec![0; PIECE];
    for (i, piece) in pieces(bytes).enumerate() {
        let got = &mut buffer[..piece.len()];
        stream.read_exact(got).map_err(|error| Kind::from(&error))?;
        if let Some(at) = got.iter().zip(&piece).position(|(got, sent)| got != sent) {
            // Both directions end, so that the sender stops too.
            stream.shutdown(Shutdown::Both).ok();
            return Err(Kind::WrongAnswer(format!("byte {} differs from what was sent", i * PIECE + at)));
        }
    }
    match stream.read(&mut buffer) {
        Ok(0) => Ok(()),
        Ok(more) => Err(Kind::WrongAnswer(format!("{more} more bytes than were sent"))),
        Err(error) => Err(Kind::from(&error)),
    }
}
