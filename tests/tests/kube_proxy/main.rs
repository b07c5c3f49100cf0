//! What kube-proxy leaves behind: `lb cleanup --kube-proxy`, and what `lb check` says of a node.

mod cleanup;
mod rules;
