//! Sends arbitrary frames on a pod's link, below the pod's sockets.

use super::pod::Pod;
use super::wiring::GATEWAY_MAC;
use crate::packet::Packet;
use crate::sys;
use anyhow::{Context, Result};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::sleep;
use std::time::Duration;

/// A socket with this protocol receives nothing.
const NO_PROTOCOL: u16 = 0;

/// A packet socket on a pod's `eth0`.
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    pub fn of(pod: &Pod) -> Result<Self> {
        let index = pod.netns.link_index(Pod::LINK)?;
        let open = || sys::packet_socket(index, NO_PROTOCOL);
        Ok(Self { socket: pod.netns.enter(open).context("cannot open a packet socket")? })
    }

    /// Sends frames as they are, waiting while the link's queue is full.
    pub fn send(&self, mut frames: &[Vec<u8>]) -> Result<()> {
        while !frames.is_empty() {
            match sys::send_frames(self.socket.as_fd(), frames) {
                Ok(sent) => frames = &frames[sent..],
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => sleep(Duration::from_millis(1)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot send frames"),
            }
        }
        Ok(())
    }
}

impl Pod {
    /// Sends packets with any source to the node, or through it.
    pub fn send(&self, packets: &[Packet]) -> Result<()> {
        let frame = |packet: &Packet| packet.clone().macs(packet.eth_src, GATEWAY_MAC).bytes();
        Wire::of(self)?.send(&packets.iter().map(frame).collect::<Vec<_>>())
    }
}
