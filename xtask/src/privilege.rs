//! Running a program as root if it needs that. cargo itself always runs as the user.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::IsTerminal,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use xtask::{control_plane, toolchain};

/// `program`, to run as root with `variables` in its environment (sudo drops those of its caller).
pub fn as_root(program: impl AsRef<OsStr>, variables: &[(&str, impl AsRef<OsStr>)]) -> Result<Command> {
    if fs::metadata("/proc/self").context("/proc is not mounted")?.uid() == 0 {
        let mut command = Command::new(program);
        command.envs(variables.iter().map(|(variable, value)| (variable, value)));
        return Ok(command);
    }
    let name = program.as_ref().to_string_lossy();
    ensure!(find("sudo").is_some(), "{name} needs root, and there is no sudo: run this command as root");
    let mut command = Command::new("sudo");
    if std::io::stdin().is_terminal() {
        // If a password is needed, sudo asks for it now and not in the middle of a progress line.
        let silent = Command::new("sudo").args(["-n", "true"]).stderr(Stdio::null()).status();
        if !silent.is_ok_and(|status| status.success()) {
            let agreed = Command::new("sudo").arg("-v").status().context("sudo cannot be started")?;
            ensure!(agreed.success(), "{name} needs root, and sudo refused");
        }
    } else {
        command.arg("-n");
    }
    command.arg("--").arg("env");
    for (variable, value) in variables {
        let mut assignment = OsString::from(variable);
        assignment.push("=");
        assignment.push(value.as_ref());
        command.arg(assignment);
    }
    command.arg(program);
    Ok(command)
}

/// The path of a program, which may also be in the administrator's folders.
pub fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The environment of every program of ours that runs as root: where the programs of the system and of the test
/// control plane are, as the user has them.
pub fn environment() -> Vec<(&'static str, OsString)> {
    let mut variables = vec![("PATH", search_path())];
    variables.extend(env::var_os(control_plane::ASSETS).map(|folder| (control_plane::ASSETS, folder)));
    let cache =
        toolchain::cache().ok().and_then(|folder| folder.parent().map(|base| base.as_os_str().to_owned()));
    variables.extend(cache.map(|base| ("XDG_CACHE_HOME", base)));
    variables
}

/// The PATH, extended by the folders of `ip` and `tc`, which a user's PATH may lack.
pub fn search_path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}
