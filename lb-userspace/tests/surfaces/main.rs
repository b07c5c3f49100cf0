//! What other programs ask the agent by HTTP, and what it answers: word by word where others parse it.

mod events;
mod http;
mod introspection;
mod listen;
mod proxy_health;
mod service_health;
