//! A real kube-apiserver on etcd, and an agent that follows it.

mod churn;
mod faults;
mod harness;
mod serve;
mod stage;
