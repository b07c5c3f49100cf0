//! The agent and the commands of `lb`.
