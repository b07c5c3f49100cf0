//! The system calls that no crate wraps; all `unsafe` of the harness is here.

use std::io::{self, Error};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes a command start in this network namespace, and in no other new namespace.
pub fn start_in(command: &mut Command, netns: RawFd) {
    // SAFETY: between fork and exec only setns is called, which is async-signal-safe; the caller keeps the
    // descriptor open until the command has been spawned.
    unsafe {
        command.pre_exec(move || match libc::setns(netns, libc::CLONE_NEWNET) {
            0 => Ok(()),
            _ => Err(Error::last_os_error()),
        });
    }
}

/// Makes the kernel kill the command when the thread that started it ends.
pub fn end_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(Error::last_os_error()),
        });
    }
}

/// Registers a function that runs when the process exits, after `main`.
pub fn at_exit(work: extern "C" fn()) {
    // SAFETY: the function lives as long as the process, and takes no argument.
    let refused = unsafe { libc::atexit(work) };
    assert_eq!(refused, 0, "atexit guarantees room for 32 functions, and this is the only one");
}

/// The arguments of `BPF_PROG_TEST_RUN`, as `union bpf_attr` of linux/bpf.h lays them out.
#[repr(C)]
#[derive(Default)]
pub struct TestRun {
    pub prog_fd: u32,
    pub retval: u32,
    pub data_size_in: u32,
    pub data_size_out: u32,
    pub data_in: u64,
    pub data_out: u64,
    pub repeat: u32,
    /// The mean time of a run, in nanoseconds.
    pub duration: u32,
    pub ctx_size_in: u32,
    pub ctx_size_out: u32,
    pub ctx_in: u64,
    pub ctx_out: u64,
    pub flags: u32,
    pub cpu: u32,
    pub batch_size: u32,
    pub pad: u32,
}

const _: () = assert!(size_of::<TestRun>() == 80);

const BPF_PROG_TEST_RUN: libc::c_int = 10;

/// Runs a program on a packet.
pub fn test_run(
    program: BorrowedFd,
    packet: &[u8],
    packet_out: &mut [u8],
    context: &[u8],
    context_out: &mut [u8],
    repeat: u32,
    flags: u32,
) -> io::Result<TestRun> {
    let mut attr = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: packet.len() as u32,
        data_size_out: packet_out.len() as u32,
        data_in: packet.as_ptr() as u64,
        data_out: packet_out.as_mut_ptr() as u64,
        repeat,
        ctx_size_in: context.len() as u32,
        ctx_size_out: context_out.len() as u32,
        ctx_in: if context.is_empty() { 0 } else { context.as_ptr() as u64 },
        ctx_out: if context_out.is_empty() { 0 } else { context_out.as_mut_ptr() as u64 },
        flags,
        ..TestRun::default()
    };
    // SAFETY: the four buffers outlive the call and have the lengths given; the kernel writes the attribute
    // back within its 80 bytes.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<TestRun>()) };
    if done < 0 { Err(Error::last_os_error()) } else { Ok(attr) }
}

/// A packet socket (AF_PACKET, whole frames) on a link of the calling thread's namespace.
pub fn packet_socket(link: u32, protocol: u16) -> io::Result<OwnedFd> {
    let protocol = protocol.to_be();
    // SAFETY: plain system call; the result is checked.
    let raw =
        unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol)) };
    if raw < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: zeros are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = link as i32;
    // SAFETY: the address is a sockaddr_ll of the size given.
    let bound =
        unsafe { libc::bind(raw, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32) };
    if bound < 0 { Err(Error::last_os_error()) } else { Ok(socket) }
}

/// Sends frames through a packet socket in one call; returns how many were sent.
pub fn send_frames(socket: BorrowedFd, frames: &[Vec<u8>]) -> io::Result<usize> {
    let mut parts: Vec<libc::iovec> = frames
        .iter()
        .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() })
        .collect();
    let message = |part: &mut libc::iovec| {
        // SAFETY: zeros are a valid mmsghdr.
        let mut message: libc::mmsghdr = unsafe { zeroed() };
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
        message
    };
    let mut messages: Vec<libc::mmsghdr> = parts.iter_mut().map(message).collect();
    // SAFETY: each message points at one part, each part at one frame; all outlive the call, and the kernel
    // only reads the frames.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), messages.len() as u32, 0) };
    if sent < 0 { Err(Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Receives one frame; `None` after the socket's receive timeout.
pub fn receive_frame(socket: BorrowedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    // SAFETY: the buffer is writable for its whole length.
    let len = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    if len >= 0 {
        return Ok(Some(len as usize));
    }
    let error = Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
        _ => Err(error),
    }
}
