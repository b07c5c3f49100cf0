//! Names of the chains in a table of iptables-legacy, by `getsockopt(2)` as libiptc reads them.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::family::NfFamily;

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`; then `IPT_SO_GET_ENTRIES` and `IP6T_SO_GET_ENTRIES`.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
const NAME: usize = 32;

/// `struct ipt_getinfo`, and `struct ip6t_getinfo`, which has the same fields.
#[repr(C)]
struct Info {
    name: [u8; NAME],
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    num_entries: u32,
    size: u32,
}

/// Size of `struct ipt_get_entries` without its entries.
const HEADER: usize = 40;

/// The offset of `target_offset` in `struct ipt_entry` (or `ip6t_entry`); `next_offset` follows.
const fn offsets(family: NfFamily) -> usize {
    match family {
        NfFamily::V4 => 88,
        NfFamily::V6 => 140,
    }
}

/// Names of the user-defined chains in an existing table.
///
/// # Errors
/// The error of the kernel; `Interrupted` if the table kept changing.
pub fn chains(family: NfFamily, table: &str) -> io::Result<Vec<String>> {
    Ok(user_chains(family, &read(family, table)?.entries))
}

/// Returns true if the policy of FORWARD in an existing table is to drop.
///
/// # Errors
/// The errors of [`chains`].
pub fn drops_forwarded(family: NfFamily, table: &str) -> io::Result<bool> {
    /// `NF_INET_FORWARD`, the index in arrays of hooks.
    const FORWARD: usize = libc::NF_INET_FORWARD as usize;
    /// The offset of the verdict in a standard target, behind the header.
    const VERDICT: usize = 32;
    /// `-NF_DROP - 1`, with `NF_DROP` 0 (net/netfilter/x_tables.c).
    const DROP: u32 = u32::MAX;
    let Table { entries, underflow } = read(family, table)?;
    // The last entry of a built-in chain is its policy.
    let policy = entries.get(underflow[FORWARD] as usize..).unwrap_or_default();
    let verdict = u16_at(policy, offsets(family)).and_then(|target| u32_at(policy, target + VERDICT));
    Ok(verdict == Some(DROP))
}

/// A table as the kernel returns it.
struct Table {
    entries: Vec<u8>,
    /// For each hook, the offset of its policy in `entries`.
    underflow: [u32; 5],
}

fn read(family: NfFamily, table: &str) -> io::Result<Table> {
    const TRIES: usize = 10;
    let level = match family {
        NfFamily::V4 => libc::SOL_IP,
        NfFamily::V6 => libc::SOL_IPV6,
    };
    let socket = socket(family)?;
    let mut name = [0; NAME];
    name.iter_mut().zip(table.bytes().take(NAME - 1)).for_each(|(to, from)| *to = from);
    for _ in 0..TRIES {
        // An `Info` as bytes; the name comes first.
        let mut info = [0; size_of::<Info>()];
        info[..NAME].copy_from_slice(&name);
        get(&socket, level, GET_INFO, &mut info)?;
        let size = u32_at(&info, std::mem::offset_of!(Info, size)).unwrap_or_default();
        let mut entries = vec![0; HEADER + size as usize];
        entries[..NAME].copy_from_slice(&name);
        entries[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
        match get(&socket, level, GET_ENTRIES, &mut entries) {
            Ok(()) => {
                let at = |hook| std::mem::offset_of!(Info, underflow) + hook * size_of::<u32>();
                let underflow = std::array::from_fn(|hook| u32_at(&info, at(hook)).unwrap_or_default());
                return Ok(Table { entries: entries.split_off(HEADER), underflow });
            }
            // The table has another size by now.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// Any socket of the family will do.
fn socket(family: NfFamily) -> io::Result<OwnedFd> {
    // SAFETY: the call has no pointers.
    let fd = unsafe { libc::socket(family.number().into(), libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn get(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, buffer: &mut [u8]) -> io::Result<()> {
    let mut length = buffer.len() as libc::socklen_t;
    // SAFETY: the buffer is writable for the length given, which the kernel does not exceed.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, buffer.as_mut_ptr().cast(), &raw mut length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?).into())
}

/// A chain begins with an entry whose target is named ERROR and holds the name of the chain. The end of the table is
/// such an entry with the name ERROR.
fn user_chains(family: NfFamily, mut entries: &[u8]) -> Vec<String> {
    const TARGET_NAME: usize = 2;
    const TARGET_DATA: usize = 32;
    let name_at = |bytes: &[u8], at: usize| -> Option<String> {
        let bytes = bytes.get(at..(at + 29).min(bytes.len()))?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    };
    let mut chains = Vec::new();
    while let Some(next) = u16_at(entries, offsets(family) + 2).filter(|next| *next > 0) {
        let target = u16_at(entries, offsets(family)).and_then(|at| entries.get(at..next));
        let error = target.filter(|target| name_at(target, TARGET_NAME).as_deref() == Some("ERROR"));
        chains.extend(error.and_then(|target| name_at(target, TARGET_DATA)).filter(|name| name != "ERROR"));
        entries = entries.get(next..).unwrap_or_default();
    }
    chains
}
