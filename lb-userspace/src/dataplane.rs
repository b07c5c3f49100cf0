//! The tables and programs in the kernel. Only these modules use aya.

pub mod bridges;
pub mod hook;
pub mod load;
pub mod lock;
pub mod maps;
pub mod migrate;
pub mod pins;
pub mod probe;
pub mod shape;
pub mod sweep;
pub mod sys;

use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use lb_common::{Backend, BackendState, Prefix, RangeRule, Service, ServiceRecord, SourceClient};

use crate::tables::Tables;
use crate::tables::interest::Interest;
use crate::tables::op::Op;
use crate::tables::plane::Plane;
use maps::Maps;
use sys::grace::Grace;

/// The tables in the kernel.
pub struct Kernel {
    pub maps: Maps,
    pub grace: Arc<Grace>,
}

impl Kernel {
    /// # Errors
    /// If the kernel has no maps of maps.
    pub fn new(maps: Maps) -> anyhow::Result<Self> {
        let grace = Grace::new().context("create a map of maps, which proves grace periods")?;
        Ok(Self { maps, grace: Arc::new(grace) })
    }

    fn apply_one(&mut self, op: &Op) -> anyhow::Result<()> {
        let maps = &mut self.maps;
        match op {
            Op::SetInterest { bit } => maps.interest.store(*bit, true),
            Op::ClearInterest { bit } => maps.interest.store(*bit, false),
            Op::WriteBackend { id, backend } => {
                if maps.backends.get(*id).is_free() {
                    maps.clear_backend_traffic(*id)?;
                }
                maps.backends.set(*id, backend);
            }
            Op::WriteSlots { offset, slots } => {
                for (index, slot) in (*offset..).zip(slots) {
                    maps.slots.set(index, slot);
                }
            }
            Op::WriteName { id, name } => {
                maps.clear_service_traffic(*id)?;
                maps.names.insert(id, **name, 0)?;
            }
            Op::WriteRecord { service, index, record } => write_record(maps, *service, *index, record),
            Op::Flip { service, active } => {
                let word = maps.services.word64(*service, offset_of!(Service, active));
                // After everything that the record refers to.
                word.store(*active, Ordering::Release);
            }
            Op::PutFrontend { key, frontend } => maps.frontends.insert(key, frontend, 0)?,
            Op::DeleteFrontend { key } => absent_is_fine(maps.frontends.remove(key))?,
            Op::SetBackendState { id, state } => {
                maps.backends.set_byte(*id, offset_of!(Backend, state), *state as u8);
            }
            Op::RetireBackend { id, generation } => {
                let word = maps.backends.word32(*id, offset_of!(Backend, generation));
                word.store(*generation, Ordering::Release);
                maps.backends.set_byte(*id, offset_of!(Backend, state), BackendState::Free.number());
            }
            Op::DeleteName { id } => absent_is_fine(maps.names.remove(id))?,
            Op::PutLocalAddr { addr } => maps.local_addrs.insert(addr, 0, 0)?,
            Op::DeleteLocalAddr { addr } => absent_is_fine(maps.local_addrs.remove(addr))?,
            Op::PutRange { prefix, rule } => {
                maps.service_ranges.insert(&Key::new(prefix.len, prefix.addr), *rule as u32, 0)?;
            }
            Op::DeleteRange { prefix } => {
                absent_is_fine(maps.service_ranges.remove(&Key::new(prefix.len, prefix.addr)))?;
            }
            Op::PutSourceRange { service, prefix } => {
                maps.source_ranges.insert(&source_range(*service, prefix), 0, 0)?;
            }
            Op::DeleteSourceRange { service, prefix } => {
                absent_is_fine(maps.source_ranges.remove(&source_range(*service, prefix)))?;
            }
            Op::SetBackendSets { id, sets } => maps.backends.set_byte(*id, offset_of!(Backend, sets), *sets),
        }
        Ok(())
    }
}

fn source_range(service: u32, prefix: &Prefix) -> Key<SourceClient> {
    let service = service.to_be_bytes();
    Key::new(SERVICE_BITS + prefix.len, SourceClient { service, addr: prefix.addr })
}

/// Bits of the service id in front of the address, in a key of `source_ranges`.
const SERVICE_BITS: u32 = 32;

fn write_record(maps: &Maps, service: u32, index: u8, record: &ServiceRecord) {
    let mut whole = maps.services.get(service);
    whole.records[usize::from(index & 1)] = *record;
    // The words of the other record and of `active` keep their values.
    maps.services.set(service, &whole);
}

fn absent_is_fine(result: Result<(), MapError>) -> anyhow::Result<()> {
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => Ok(other?),
    }
}

/// Reads the tables from the maps.
///
/// # Errors
/// If a map cannot be read.
pub fn read(maps: &Maps) -> anyhow::Result<Tables> {
    let mut tables = Tables::default();
    for entry in maps.frontends.iter() {
        let (key, frontend) = entry?;
        tables.frontends.insert(key, frontend);
    }
    for entry in maps.names.iter() {
        let (id, name) = entry?;
        tables.names.insert(id, Box::new(name));
    }
    for id in 0..maps.services.entries() {
        let service = maps.services.get(id);
        if service != Service::BLANK {
            tables.services.insert(id, service);
        }
    }
    let slots = maps.slots.entries();
    let end = (0..slots)
        .rev()
        .find(|index| maps.slots.get(*index) != Default::default())
        .map_or(0, |last| last + 1);
    tables.slots = (0..end).map(|index| maps.slots.get(index)).collect();
    for id in 0..maps.backends.entries() {
        let backend = maps.backends.get(id);
        if backend.generation != 0 || !backend.is_free() {
            tables.backends.insert(id, backend);
        }
    }
    for addr in maps.local_addrs.keys() {
        tables.local_addrs.insert(addr?);
    }
    for entry in maps.service_ranges.iter() {
        let (key, rule) = entry?;
        let rule = RangeRule::from_number(rule)
            .with_context(|| format!("service_ranges: no rule has number {rule}"))?;
        tables.ranges.insert(Prefix { len: key.prefix_len(), addr: key.data() }, rule);
    }
    for key in maps.source_ranges.keys() {
        let key = key?;
        let client = key.data();
        let prefix = Prefix { len: key.prefix_len().saturating_sub(SERVICE_BITS), addr: client.addr };
        tables.source_ranges.entry(u32::from_be_bytes(client.service)).or_default().insert(prefix);
    }
    tables.interest = Interest::from_words(maps.interest.words());
    Ok(tables)
}

impl Plane for Kernel {
    fn read(&mut self) -> anyhow::Result<Tables> {
        read(&self.maps)
    }

    fn apply(&mut self, plan: &[Op]) -> anyhow::Result<()> {
        for op in plan {
            self.apply_one(op).with_context(|| format!("{op}"))?;
        }
        Ok(())
    }

    fn grace(&mut self) -> anyhow::Result<()> {
        self.grace.wait().context("wait for a grace period")
    }
}
