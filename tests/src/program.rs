//! Runs a loaded program on a packet (`BPF_PROG_TEST_RUN`), without a link or a socket.
//!
//! aya can do this too, but for `BPF_F_TEST_SKB_CHECKSUM_COMPLETE`. With that flag the kernel holds a checksum
//! over the packet, as real NICs deliver, and fails the run (EBADMSG) when the program lets it go wrong.

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

/// How to run: what the program finds in its context, how often, on which kind of checksum.
#[derive(Clone, Debug)]
pub struct Run {
    context: [u8; SKB_LEN],
    repeat: u32,
    flags: u32,
    /// Of the calling thread's namespace.
    has_link: bool,
}

/// What came out of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The program's return value: a TC_ACT_* or TCX_* number.
    pub verdict: i32,
    pub frame: Vec<u8>,
    /// Mean time of a run; meaningful with many repeats.
    pub time: Duration,
    context: [u8; SKB_LEN],
}

impl Outcome {
    /// The packet that came out, its checksums verified.
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

// Offsets in `struct __sk_buff` (linux/bpf.h) that the kernel lets a test set.
const MARK: usize = 8;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;
const CB: usize = 48;

fn word(context: &[u8; SKB_LEN], at: usize) -> u32 {
    u32::from_ne_bytes(context[at..at + 4].try_into().expect("four bytes"))
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

    /// The link that the packet is on; it must exist in the namespace of the calling thread.
    pub fn on_link(self, index: u32) -> Self {
        self.set(IFINDEX, index)
    }

    /// The link that the packet came by.
    pub fn came_by(self, index: u32) -> Self {
        self.set(INGRESS_IFINDEX, index)
    }

    pub fn mark(self, mark: u32) -> Self {
        self.set(MARK, mark)
    }

    /// The kernel keeps a checksum over the packet, as real NICs deliver, and checks it afterwards.
    pub fn checksum_complete(mut self) -> Self {
        self.flags |= CHECKSUM_COMPLETE;
        self
    }

    /// Runs this often on the same buffer, for [`Outcome::time`]. The program sees its own changes.
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

    /// Runs the program on any bytes; the kernel wants 14 of them at least.
    pub fn frame(&self, program: &SchedClassifier, frame: &[u8]) -> Result<Outcome> {
        let program = program.fd().context("the program is not loaded")?.as_fd();
        let mut out = vec![0; frame.len() + 512];
        let mut context = [0; SKB_LEN];
        let mut run = || {
            let (before, repeat, flags) = (&self.context, self.repeat, self.flags);
            sys::test_run(program, frame, &mut out, before, &mut context, repeat, flags)
        };
        let done = if self.has_link { run() } else { nowhere(run) }
            .context("BPF_PROG_TEST_RUN (EBADMSG: the program broke the checksum that the kernel keeps)")?;
        out.truncate(done.data_size_out as usize);
        let time = Duration::from_nanos(done.duration.into());
        Ok(Outcome { verdict: done.retval as i32, frame: out, time, context })
    }
}

/// What a program of XDP returns for a packet. The kernel's default context stands for the link.
pub fn run_xdp(program: &Xdp, packet: &Packet) -> Result<u32> {
    let program = program.fd().context("the program is not loaded")?.as_fd();
    let frame = packet.bytes();
    let mut out = vec![0; frame.len() + 512];
    let done = sys::test_run(program, &frame, &mut out, &[], &mut [], 1, 0)
        .with_context(|| format!("run on {packet}"))?;
    ensure!(out[..done.data_size_out as usize] == frame, "{packet} was changed");
    Ok(done.retval)
}

/// Runs a closure in a namespace that holds nothing: what a program sends by itself (`bpf_clone_redirect`) ends there.
/// The calling thread comes back: a thread of its own for each packet would cost more than the packet.
fn nowhere<T>(work: impl FnOnce() -> T) -> T {
    static NOWHERE: OnceLock<File> = OnceLock::new();
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace can be made (root?)");
        own_namespace()
    };
    let nowhere = NOWHERE.get_or_init(|| thread::spawn(make).join().expect("it makes a namespace"));
    let here = own_namespace();
    enter(nowhere);
    let _back = Back(here);
    work()
}

fn own_namespace() -> File {
    File::open("/proc/thread-self/ns/net").expect("a thread has a namespace")
}

fn enter(namespace: &File) {
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).expect("it can be entered (root?)");
}

/// Where the thread goes when this is dropped.
struct Back(File);

impl Drop for Back {
    fn drop(&mut self) {
        enter(&self.0);
    }
}

/// One run with nothing special; the verdict and the packet that came out.
pub fn run(program: &SchedClassifier, packet: &Packet) -> Result<(i32, Packet)> {
    let outcome = Run::new().packet(program, packet)?;
    Ok((outcome.verdict, outcome.packet()?))
}
