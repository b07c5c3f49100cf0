//! The harness of lb's tests. The tests themselves are in `tests/`, next to `src/`.
//!
//! | to show that | use |
//! | --- | --- |
//! | a program turns this packet into that one | [`packet`] and [`program`] |
//! | objects become these tables, step by step | [`scenario`] |
//! | traffic between real sockets works | [`world`], with [`echo`] servers and [`load`] |
//! | the same works on a real Kubernetes API | [`cluster`] |
//! | the same works in the container of `deploy/` | [`container`] |
//!
//! `docs/testing.md` describes them in detail.

pub mod cluster;
pub mod container;
pub mod datapath;
pub mod echo;
pub mod load;
pub mod packet;
pub mod program;
pub mod scenario;
mod sys;
pub mod variant;
pub mod world;
