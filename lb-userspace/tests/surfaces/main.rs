//! The agent's answers to HTTP requests of other programs, word by word if others parse them.

mod events;
mod http;
mod introspection;
mod listen;
mod proxy_health;
mod service_health;
