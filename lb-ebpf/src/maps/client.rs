//! What is remembered of clients: their backends (affinity), and the peers of the host's sockets.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    btf_maps::LruHashMap,
    macros::btf_map,
};
use lb_common::{Affinity, AffinityKey, Socket, SocketKey, capacity};

#[btf_map(name = "affinity")]
static AFFINITY: LruHashMap<AffinityKey, Affinity, { capacity::AFFINITY }> = LruHashMap::new();
#[btf_map(name = "sockets")]
static SOCKETS: LruHashMap<SocketKey, Socket, { capacity::SOCKETS }> = LruHashMap::new();

/// What is remembered of a client. The entry may become another client's while it is held: what is read from the
/// entry has to be checked, and what is written to it may get lost.
#[inline(always)]
pub fn affinity<'a>(key: &AffinityKey) -> Option<&'a mut Affinity> {
    // SAFETY: the kernel gave a pointer to a live value of this type.
    AFFINITY.get_ptr_mut(key).map(|entry| unsafe { &mut *entry })
}

/// Remembers a client's backend. If `known`, the previous entry is overwritten; otherwise an entry that is there is
/// an error (`-EEXIST`).
#[inline(always)]
pub fn affinity_insert(key: &AffinityKey, entry: &Affinity, known: bool) -> Result<(), i32> {
    AFFINITY.insert(key, entry, u64::from(if known { BPF_ANY } else { BPF_NOEXIST }))
}

/// What is known of a peer of a socket.
#[inline(always)]
pub fn socket(key: &SocketKey) -> Option<Socket> {
    // SAFETY: copied at once; the entry of a socket is written before anything reads it.
    unsafe { SOCKETS.get(key) }.copied()
}

#[inline(always)]
pub fn socket_insert(key: &SocketKey, socket: &Socket) {
    // If there is no memory for the entry, the socket still works: its process sees the backend's name.
    let _ = SOCKETS.insert(key, socket, u64::from(BPF_ANY));
}

#[inline(always)]
pub fn socket_remove(key: &SocketKey) {
    // Usually the entry is absent.
    let _ = SOCKETS.remove(key);
}
