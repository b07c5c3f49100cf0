//! `bpf(2)` where aya has no wrapper: batches, mappings, links, and a proof of grace.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya::Pod;
use aya::maps::MapData;

const BPF_MAP_CREATE: u32 = 0;
const BPF_MAP_LOOKUP_ELEM: u32 = 1;
const BPF_MAP_UPDATE_ELEM: u32 = 2;
const BPF_OBJ_PIN: u32 = 6;
const BPF_OBJ_GET: u32 = 7;
const BPF_OBJ_GET_INFO_BY_FD: u32 = 15;
const BPF_PROG_QUERY: u32 = 16;
const BPF_MAP_LOOKUP_BATCH: u32 = 24;
const BPF_LINK_UPDATE: u32 = 29;
const BPF_LINK_DETACH: u32 = 34;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// One command of `bpf(2)`. `attr` is the part of `union bpf_attr` that the command reads; the kernel takes the
/// rest as zero.
fn bpf<T>(command: u32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is valid for reads and writes of its size; each caller passes the struct of its command.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Reads a map in batches: some 15 ms for 100,000 entries where one by one takes 127. Entries that come or go
/// meanwhile may be missed or seen twice. `visit` gets keys and values of these sizes in bytes.
///
/// # Errors
/// The kernel's.
pub fn for_each_bytes(
    map: BorrowedFd,
    key: usize,
    value: usize,
    mut visit: impl FnMut(&[u8], &[u8]),
) -> io::Result<()> {
    const BATCH: usize = 4096;
    let mut want = BATCH;
    let mut keys = vec![0; want * key];
    let mut values = vec![0; want * value];
    // Where the kernel goes on: a bucket number.
    let mut position = [0_u64; 2];
    let mut first = true;
    loop {
        let mut attr = BatchAttr {
            in_batch: if first { 0 } else { position.as_ptr() as u64 },
            out_batch: position.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: want as u32,
            map_fd: map.as_raw_fd() as u32,
            ..BatchAttr::default()
        };
        let result = bpf(BPF_MAP_LOOKUP_BATCH, &mut attr);
        match &result {
            Ok(_) => {}
            // The end; `count` entries came before it.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            // A bucket has more entries than there is room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && want < 1 << 20 => {
                want *= 2;
                keys.resize(want * key, 0);
                values.resize(want * value, 0);
                continue;
            }
            Err(error) => {
                return Err(io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)));
            }
        }
        for (key, value) in keys.chunks_exact(key).zip(values.chunks_exact(value)).take(attr.count as usize) {
            visit(key, value);
        }
        if result.is_err() {
            return Ok(());
        }
        first = false;
    }
}

/// As [`for_each_bytes`], for types. The map's keys and values are of their sizes.
///
/// # Errors
/// The kernel's.
pub fn for_each<K: Pod, V: Pod>(map: BorrowedFd, mut visit: impl FnMut(&K, &V)) -> io::Result<()> {
    for_each_bytes(map, size_of::<K>(), size_of::<V>(), |key, value| {
        // SAFETY: as many bytes as each type has, and any bit pattern is a value of it.
        let (key, value) = unsafe {
            (key.as_ptr().cast::<K>().read_unaligned(), value.as_ptr().cast::<V>().read_unaligned())
        };
        visit(&key, &value);
    })
}

/// For [`update`]: whether the key is there or not.
pub const ANY: u64 = 0;
/// For [`update`]: the key must not be there.
pub const NOEXIST: u64 = 1;

/// Writes an entry, given as bytes of the map's sizes (per-CPU values: one for each possible CPU).
///
/// # Errors
/// The kernel's: `AlreadyExists`, `E2BIG` where the map is full.
pub fn update(map: BorrowedFd, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd() as u64,
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        flags,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Is the key there? Values have `value` bytes.
///
/// # Errors
/// The kernel's.
pub fn contains(map: BorrowedFd, key: &[u8], value: usize) -> io::Result<bool> {
    let mut found = vec![0_u8; value];
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd() as u64,
        key: key.as_ptr() as u64,
        value: found.as_mut_ptr() as u64,
        flags: 0,
    };
    match bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// An array map, mapped into memory (`BPF_F_MMAPABLE`). Elements stand at multiples of eight bytes.
pub struct Mapped<T> {
    start: NonNull<u8>,
    bytes: usize,
    len: usize,
    element: std::marker::PhantomData<T>,
}

// SAFETY: shared memory that is read and written word by word with volatile or atomic access only.
unsafe impl<T: Send> Send for Mapped<T> {}
// SAFETY: as above; one thread writes, and a copy that another reads meanwhile may be of two moments, as in any other
// process that maps it.
unsafe impl<T: Sync> Sync for Mapped<T> {}

impl<T: Pod> Mapped<T> {
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// # Errors
    /// Where the map is of another shape or cannot be mapped.
    pub fn new(map: &MapData, writable: bool) -> anyhow::Result<Self> {
        let info = map.info()?;
        anyhow::ensure!(
            info.value_size() as usize == size_of::<T>(),
            "map has values of {} bytes, {} expected",
            info.value_size(),
            size_of::<T>()
        );
        let len = info.max_entries() as usize;
        let bytes = (len * Self::STRIDE).next_multiple_of(4096);
        let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a fresh shared mapping of a map that is at least this long.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(anyhow::Error::new(io::Error::last_os_error()).context("mmap of a map"));
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| anyhow::anyhow!("mmap of a map gave null"))?;
        Ok(Self { start, bytes, len, element: std::marker::PhantomData })
    }

    /// Number of elements; never 0, for the kernel makes no empty array.
    pub fn entries(&self) -> u32 {
        self.len as u32
    }

    fn at(&self, index: u32) -> *mut T {
        let index = index as usize;
        assert!(index < self.len, "index {index} of an array of {}", self.len);
        // SAFETY: in bounds by the line above.
        unsafe { self.start.as_ptr().add(index * Self::STRIDE).cast() }
    }

    /// A copy of an element, word by word.
    pub fn get(&self, index: u32) -> T {
        // SAFETY: in bounds; any bit pattern is a T; the kernel or another process may write it meanwhile, hence
        // volatile.
        unsafe { self.at(index).read_volatile() }
    }

    /// Writes an element that no packet reads, or words of it that are the same.
    pub fn set(&self, index: u32, value: &T) {
        // SAFETY: in bounds, and only this process writes.
        unsafe { self.at(index).write_volatile(*value) }
    }

    /// A 64-bit word of an element, for a store that packets see at once. `offset` in bytes.
    pub fn word64(&self, index: u32, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= size_of::<T>());
        // SAFETY: in bounds and aligned by the line above; every access to it is atomic or a volatile read.
        unsafe { AtomicU64::from_ptr(self.at(index).cast::<u8>().add(offset).cast()) }
    }

    /// A 32-bit word of an element. `offset` in bytes.
    pub fn word32(&self, index: u32, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= size_of::<T>());
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(self.at(index).cast::<u8>().add(offset).cast()) }
    }

    /// A field of one byte. `offset` in bytes.
    pub fn set_byte(&self, index: u32, offset: usize, value: u8) {
        assert!(offset < size_of::<T>());
        // SAFETY: in bounds by the line above, and only this process writes.
        unsafe { self.at(index).cast::<u8>().add(offset).write_volatile(value) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// Proof that every program which ran before has ended: the kernel waits for that after an update of a map of
/// maps (`maybe_wait_bpf_programs`), so the inner maps of the old value can go. Some 10 ms.
pub struct Grace {
    outer: OwnedFd,
    inner: OwnedFd,
}

#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

#[repr(C)]
struct ElementAttr {
    map_fd: u64,
    key: u64,
    value: u64,
    flags: u64,
}

fn create(map_type: u32, inner: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let mut attr = CreateAttr {
        map_type,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        inner_map_fd: inner.map_or(0, |fd| fd.as_raw_fd() as u32),
        ..CreateAttr::default()
    };
    attr.map_name[..5].copy_from_slice(b"grace");
    let fd = bpf(BPF_MAP_CREATE, &mut attr)?;
    // SAFETY: the kernel gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Grace {
    /// # Errors
    /// Where the kernel has no maps of maps, or no right to make one.
    pub fn new() -> io::Result<Self> {
        let inner = create(BPF_MAP_TYPE_ARRAY, None)?;
        let outer = create(BPF_MAP_TYPE_ARRAY_OF_MAPS, Some(&inner))?;
        Ok(Self { outer, inner })
    }

    /// # Errors
    /// The kernel's; then nothing is proven.
    pub fn wait(&self) -> io::Result<()> {
        let (key, value) = (0_u32, self.inner.as_raw_fd() as u32);
        let mut attr = ElementAttr {
            map_fd: self.outer.as_raw_fd() as u64,
            key: std::ptr::from_ref(&key) as u64,
            value: std::ptr::from_ref(&value) as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
    }
}

#[repr(C)]
struct PinAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens what is pinned there.
///
/// # Errors
/// The kernel's; `NotFound` where nothing is pinned.
pub fn get_pinned(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let fd = bpf(BPF_OBJ_GET, &mut PinAttr { path: path.as_ptr() as u64, fd: 0, flags: 0 })?;
    // SAFETY: the kernel gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins a map, a program or a link; it may have other pins.
///
/// # Errors
/// The kernel's; `AlreadyExists` where something is pinned.
pub fn pin(object: &OwnedFd, pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = PinAttr { path: path.as_ptr() as u64, fd: object.as_raw_fd() as u32, flags: 0 };
    bpf(BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Detaches a pinned link: when this returns, its program hangs there no more. (Removing the pin does it too, but
/// some milliseconds later.)
///
/// # Errors
/// The kernel's; `NotFound` where nothing is pinned.
pub fn detach_pinned(pin: &Path) -> io::Result<()> {
    let link = get_pinned(pin)?;
    bpf(BPF_LINK_DETACH, &mut (link.as_raw_fd() as u32)).map(drop)
}

#[repr(C)]
struct LinkUpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Puts another program under a pinned link, at once. (aya does so for tc and XDP only.)
///
/// # Errors
/// The kernel's; `NotFound` where nothing is pinned, ENOLINK where what it hung on is gone.
pub fn update_pinned(pin: &Path, program: BorrowedFd) -> io::Result<()> {
    let link = get_pinned(pin)?;
    let mut attr = LinkUpdateAttr {
        link: link.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        flags: 0,
        old_program: 0,
    };
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_link_info` of links to one thing.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    link_type: u32,
    id: u32,
    program: u32,
    pad: u32,
    /// TCX: `ifindex`. Cgroup: the low half of `cgroup_id`.
    target: u32,
    /// The kernel's struct is longer.
    rest: [u32; 17],
}

/// What a pinned link is attached to: an interface by its index (TCX), or a cgroup by the low half of its number. 0
/// where it is attached no more: its target is gone, or somebody detached it.
///
/// # Errors
/// The kernel's; `NotFound` where nothing is pinned.
pub fn pinned_target(pin: &Path) -> io::Result<u32> {
    let link = get_pinned(pin)?;
    let mut info = LinkInfo::default();
    let mut attr = InfoAttr {
        fd: link.as_raw_fd() as u32,
        info_len: size_of::<LinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info.target)
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Ids of the TCX programs at a link of this network namespace, in their order.
///
/// # Errors
/// The kernel's; EINVAL where it has no TCX.
pub fn tcx_programs(ifindex: u32, ingress: bool) -> io::Result<Vec<u32>> {
    const BPF_TCX_INGRESS: u32 = 46;
    const BPF_TCX_EGRESS: u32 = 47;
    // The kernel takes at most 64 at a hook (`BPF_MPROG_MAX`).
    let mut ids = vec![0_u32; 64];
    let mut attr = QueryAttr {
        target_ifindex: ifindex,
        attach_type: if ingress { BPF_TCX_INGRESS } else { BPF_TCX_EGRESS },
        prog_ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        ..QueryAttr::default()
    };
    match bpf(BPF_PROG_QUERY, &mut attr) {
        Ok(_) => ids.truncate(attr.count as usize),
        // Nothing was ever attached.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => ids.clear(),
        Err(error) => return Err(error),
    }
    Ok(ids)
}

/// Is a map charged to RLIMIT_MEMLOCK? Tried with a limit of nothing, for a moment and this process alone.
///
/// # Errors
/// The kernel's; `PermissionDenied` without CAP_BPF.
pub fn counts_locked_memory() -> io::Result<bool> {
    create(BPF_MAP_TYPE_ARRAY, None)?;
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid pointer.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let none = libc::rlimit { rlim_cur: 0, ..before };
    // SAFETY: valid pointers; the soft limit alone is changed, and changed back.
    let counted = unsafe {
        libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const none);
        let made = create(BPF_MAP_TYPE_ARRAY, None);
        libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const before);
        made.is_err()
    };
    Ok(counted)
}

/// Set or clear a bit of a word that packets and other CPUs write too.
pub fn store_bit(word: &AtomicU64, bit: u32, on: bool) {
    if on {
        word.fetch_or(1 << bit, Ordering::Relaxed);
    } else {
        word.fetch_and(!(1 << bit), Ordering::Relaxed);
    }
}
