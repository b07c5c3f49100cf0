//! The options of the command line: what to measure.

use std::path::PathBuf;

use clap::Args;

use super::population::Size;

/// The options of `lb-bench api`.
#[derive(Args)]
pub struct Options {
    /// The `lb` to measure; by default the one next to this program
    #[arg(long)]
    pub lb: Option<PathBuf>,
    /// Services x endpoints of each; may be given several times
    #[arg(long = "size", default_values = ["10000x2", "1000x100"])]
    pub sizes: Vec<Size>,
    /// Number of single changes, one after another; kube-proxy gets a hundredth of them
    #[arg(long, default_value_t = 1_000)]
    pub changes: usize,
    /// Number of starts, and of bursts of 500 changes; medians are shown
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Measure `lb` and the bare client only
    #[arg(long)]
    pub without_kube_proxy: bool,
}
