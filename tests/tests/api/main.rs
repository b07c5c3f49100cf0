//! A real kube-apiserver on etcd, and the agent that follows it.

mod harness;
mod serve;
