//! Runs a loaded program on a packet (`BPF_PROG_TEST_RUN`), without a link or a socket.
//!
//! aya can do the same, except for `BPF_F_TEST_SKB_CHECKSUM_COMPLETE`. With that flag, the kernel keeps a checksum
//! over the packet, as a real NIC delivers it, and fails the run (EBADMSG) if the program makes the checksum wrong.

use crate::packet::Packet;
use crate::sys;
use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, Xdp};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

const CHECKSUM_COMPLETE: u32 = 4;
const SKB_LEN: usize = 192;

/// How to run a program: its context, the number of repetitions, and the kind of checksum.
#[derive(Clone, Debug)]
pub struct Run {
    context: [u8; SKB_LEN],
    repeat: u32,
    flags: u32,
    /// Whether the context names a link of the calling thread's namespace.
    has_link: bool,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The program's return value: a TC_ACT_* or TCX_* number.
    pub verdict: i32,
    pub frame: Vec<u8>,
    /// The mean time of a run; meaningful only with many repetitions.
    pub time: Duration,
    context: [u8; SKB_LEN],
}

impl Outcome {
    /// The resulting packet, with verified checksums.
    pub fn packet(&self) -> Result<Packet> {
        Packet::parse(&self.frame)
    }

    /// `skb->mark` as the program left it.
    pub fn mark(&self) -> u32 {
        word(&self.context, MARK)
    }

    /// A word of `skb->cb` as the program left it.
    pub fn cb(&self, index: usize) -> u32 {
        word(&self.context, CB + 4 * index)
    }
}

// Offsets of the fields of `struct __sk_buff` (linux/bpf.h) that a test may set.
const MARK: usize = 8;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;
const CB: usize = 48;

fn word(context: &[u8; SKB_LEN], at: usize) -> u32 {
    u32::from_ne_bytes(context[at..at + 4].try_into().expect("the slice has four bytes"))
}

impl Default for Run {
    fn default() -> Self {
        Self { context: [0; SKB_LEN], repeat: 1, flags: 0, has_link: false }
    }
}

impl Run {
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the link of the packet, which must exist in the namespace of the calling thread.
    pub fn on_link(self, index: u32) -> Self {
        self.set(IFINDEX, index)
    }

    /// Sets the link by which the packet arrived.
    pub fn came_by(self, index: u32) -> Self {
        self.set(INGRESS_IFINDEX, index)
    }

    pub fn mark(self, mark: u32) -> Self {
        self.set(MARK, mark)
    }

    /// Makes the kernel keep a checksum over the packet, as a real NIC delivers it, and check it after the run.
    pub fn checksum_complete(mut self) -> Self {
        self.flags |= CHECKSUM_COMPLETE;
        self
    }

    /// Repeats the run on the same buffer, for [`Outcome::time`]. The program sees its own changes.
    pub fn repeat(mut self, times: u32) -> Self {
        self.repeat = times;
        self
    }

    fn set(mut self, at: usize, value: u32) -> Self {
        self.context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self.has_link |= [IFINDEX, INGRESS_IFINDEX].contains(&at);
        self
    }

    /// Runs the program on a packet.
    pub fn packet(&self, program: &SchedClassifier, packet: &Packet) -> Result<Outcome> {
        self.frame(program, &packet.bytes()).with_context(|| format!("run on {packet}"))
    }

    /// Runs the program on any bytes; the kernel requires at least 14 of them.
    pub fn frame(&self, program: &SchedClassifier, frame: &[u8]) -> Result<Outcome> {
        let program = program.fd().context("the program is not loaded")?.as_fd();
        let mut out = vec![0; frame.len() + 512];
        let mut context = [0; SKB_LEN];
        let mut run = || {
            let (before, repeat, flags) = (&self.context, self.repeat, self.flags);
            sys::test_run(program, frame, &mut out, before, &mut context, repeat, flags)
        };
        let done = if self.has_link { run() } else { nowhere(run) }
            .context("BPF_PROG_TEST_RUN (EBADMSG: the program made the kernel's checksum wrong)")?;
        out.truncate(done.data_size_out as usize);
        let time = Duration::from_nanos(done.duration.into());
        Ok(Outcome { verdict: done.retval as i32, frame: out, time, context })
    }
}

/// Runs a program for XDP on a packet and returns its result. The kernel's default context takes the place of a link.
pub fn run_xdp(program: &Xdp, packet: &Packet) -> Result<u32> {
    let program = program.fd().context("the program is not loaded")?.as_fd();
    let frame = packet.bytes();
    let mut out = vec![0; frame.len() + 512];
    let done = sys::test_run(program, &frame, &mut out, &[], &mut [], 1, 0)
        .with_context(|| format!("run on {packet}"))?;
    ensure!(out[..done.data_size_out as usize] == frame, "{packet} was changed");
    Ok(done.retval)
}

/// Runs a closure in an empty namespace, so that packets which the program sends itself (`bpf_clone_redirect`) end
/// there. The calling thread then returns to its namespace, because a thread for each packet would cost more than the
/// packet.
fn nowhere<T>(work: impl FnOnce() -> T) -> T {
    static NOWHERE: OnceLock<File> = OnceLock::new();
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root can make a namespace");
        own_namespace()
    };
    let nowhere = NOWHERE.get_or_init(|| thread::spawn(make).join().expect("the thread makes a namespace"));
    let here = own_namespace();
    enter(nowhere);
    let _back = Back(here);
    work()
}

fn own_namespace() -> File {
    File::open("/proc/thread-self/ns/net").expect("a thread has a namespace")
}

fn enter(namespace: &File) {
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).expect("root can enter a namespace");
}

/// The namespace to which the thread returns when this is dropped.
struct Back(File);

impl Drop for Back {
    fn drop(&mut self) {
        enter(&self.0);
    }
}

/// Runs a program once with the default context; returns the verdict and the resulting packet.
pub fn run(program: &SchedClassifier, packet: &Packet) -> Result<(i32, Packet)> {
    let outcome = Run::new().packet(program, packet)?;
    Ok((outcome.verdict, outcome.packet()?))
}
