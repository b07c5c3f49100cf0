//! What kube-proxy leaves behind: `lb cleanup --kube-proxy`, and what `lb check` says of a node.

mod check;
mod cleanup;
mod process;
mod real;
mod rules;
