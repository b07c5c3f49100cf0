//! What must not be felt: a dead agent, a restart, a flood, a thousand changes, bad input.

mod changes;
mod clients;
mod flood;
mod kill;
mod membership;
mod stage;
mod stop;
mod swap;
