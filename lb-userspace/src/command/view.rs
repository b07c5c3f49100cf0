//! What commands show: from the tables alone, whether or not an agent runs; and from files, without a kernel but with
//! more details. docs/output.md documents the shapes.

pub(crate) mod columns;
pub mod files;
pub mod shape;
