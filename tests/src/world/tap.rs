//! Captures every IP packet on a pod's link, in both directions, below the pod's sockets.

use super::netns::Netns;
use super::pod::Pod;
use crate::packet::{Checksums, Packet};
use crate::sys;
use anyhow::{Context, Result};
use socket2::Socket;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const ALL_PROTOCOLS: u16 = 3;
const LONGEST: usize = 1 << 18;

/// Collects packets until it is dropped. Checksums are ignored, because with offloads they are only partial here.
pub struct Tap {
    packets: Arc<Mutex<Vec<Packet>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    /// Listens on the pod's `eth0`.
    pub fn on(pod: &Pod) -> Result<Self> {
        Self::on_link(&pod.netns, Pod::LINK)
    }

    pub fn on_link(netns: &Netns, link: &str) -> Result<Self> {
        let index = netns.link_index(link)?;
        let socket = netns
            .enter(|| sys::packet_socket(index, ALL_PROTOCOLS))
            .context("cannot open a packet socket")?;
        let socket = Socket::from(socket);
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        socket.set_recv_buffer_size(8 << 20)?;
        let packets = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, stopped) = (packets.clone(), stop.clone());
        let thread = std::thread::spawn(move || collect(&socket, &seen, &stopped));
        Ok(Self { packets, stop, thread: Some(thread) })
    }

    /// The packets seen so far.
    pub fn packets(&self) -> Vec<Packet> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of packets seen for which `is_such` returns true.
    pub fn count(&self, is_such: impl Fn(&Packet) -> bool) -> usize {
        self.packets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|packet| is_such(packet))
            .count()
    }

    pub fn clear(&self) {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn collect(socket: &Socket, seen: &Mutex<Vec<Packet>>, stopped: &AtomicBool) {
    let mut buffer = vec![0; LONGEST];
    // The last read comes after the request to stop, so that every earlier packet is seen.
    loop {
        let last = stopped.load(Ordering::Acquire);
        match sys::receive_frame(socket.as_fd(), &mut buffer) {
            Ok(Some(len)) => {
                // Other packets, such as ARP, are ignored.
                if let Ok(packet) = Packet::parse_with(&buffer[..len], Checksums::Ignore) {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(packet);
                }
            }
            Ok(None) if last => return,
            Ok(None) => {}
            // The link is gone.
            Err(_) => return,
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
