//! What commands show: from the tables alone, the same with an agent alive or not; and from files, with no
//! kernel, where there is more to say. Shapes are documented in docs/output.md.

pub(crate) mod columns;
pub mod files;
pub mod shape;
