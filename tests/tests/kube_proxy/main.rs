//! Beside kube-proxy: what it decides, what it leaves behind (`lb cleanup --kube-proxy`), and what `lb check` says of a
//! node.

mod agree;
mod check;
mod cleanup;
mod process;
mod real;
mod rules;
