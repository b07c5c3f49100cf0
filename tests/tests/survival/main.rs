//! Events that traffic must not notice: a dead agent, a restart, a flood, a thousand changes, bad input.

mod attack;
mod changes;
mod cleanup;
mod clients;
mod flood;
mod kill;
mod manifest;
mod membership;
mod migrate;
mod rates;
mod refusal;
mod stage;
mod start;
mod stop;
mod swap;
mod sweep;
mod turns;
mod upgrade;
