//! What to measure, as the command line says.

use std::path::PathBuf;

use clap::Args;

use super::population::Size;

/// The options of `lb-bench api`.
#[derive(Args)]
pub struct Options {
    /// The `lb` to measure; without it, the one beside this program
    #[arg(long)]
    pub lb: Option<PathBuf>,
    /// Services x endpoints of each, as often as wanted
    #[arg(long = "size", default_values = ["10000x2", "1000x100"])]
    pub sizes: Vec<Size>,
    /// Single changes, one after another; kube-proxy gets a hundredth of them
    #[arg(long, default_value_t = 1_000)]
    pub changes: usize,
    /// Starts, and bursts of 500 changes; medians are shown
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Measure `lb` and the bare client only
    #[arg(long)]
    pub without_kube_proxy: bool,
}
