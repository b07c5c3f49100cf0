//! The program `lb`: runs the command that was typed.

use std::process::ExitCode;

use clap::Parser;
use lb_userspace::agent::heap;
use lb_userspace::command::{self, args::Cli};
use lb_userspace::node::capabilities;

fn main() -> ExitCode {
    heap::set_up();
    match command::run(Cli::parse().command) {
        Ok(code) => code,
        // `lb services | head` is not an error.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lb: {error:#}{}", advice(&error));
            ExitCode::FAILURE
        }
    }
}

/// If the kernel refused something: what to do about the rights of this process. Otherwise empty.
fn advice(error: &anyhow::Error) -> String {
    let is_refusal = |cause: &(dyn std::error::Error + 'static)| {
        let code = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        matches!(code, Some(libc::EPERM | libc::EACCES))
    };
    if !error.chain().any(is_refusal) {
        return String::new();
    }
    // SAFETY: the call has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return ": run as root".to_owned();
    }
    let missing = capabilities::missing().unwrap_or_default();
    missing.iter().map(|lacks| format!("; {} is missing ({})", lacks.name, lacks.purpose)).collect()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
