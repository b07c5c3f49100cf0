//! From a destination to a backend: the frontend, the scope of its client, and the choice among the endpoints.

mod affinity;
mod frontend;
mod scope;
mod select;

pub use frontend::find_frontend;
pub use scope::{Lack, choose};
