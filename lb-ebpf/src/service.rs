//! From a destination to a backend: the frontend, the scope of its client, and the choice among the endpoints.

mod affinity;
pub mod frontend;
mod scope;
mod select;

pub use scope::{Lack, choose};
