//! `lb` next to kube-proxy: what kube-proxy decides, what it leaves behind (`lb cleanup --kube-proxy`), and what `lb
//! check` reports about a node.

mod agree;
mod check;
mod cleanup;
mod ipvs;
mod process;
mod real;
mod rules;
