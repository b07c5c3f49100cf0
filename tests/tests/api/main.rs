//! A real kube-apiserver on etcd, and the agent that follows it.

mod churn;
mod faults;
mod harness;
mod serve;
mod stage;
