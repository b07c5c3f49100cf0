//! Running cargo, and finding what it built.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::toolchain;

use crate::architecture::Architecture;

/// cargo, to run in the workspace.
pub fn command() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(toolchain::root());
    // `cargo run` sets these variables for this process. The build script of ring asks cargo to watch them: a cargo that
    // the user types and one that we start would rebuild ring, and all that needs ring, in turn.
    let ours = env::vars_os().map(|(name, _)| name);
    for name in ours.filter(|name| PACKAGE.iter().any(|prefix| name.to_string_lossy().starts_with(prefix))) {
        command.env_remove(name);
    }
    command
}

/// The prefixes of the variables that describe the package of a program which `cargo run` started.
const PACKAGE: [&str; 2] = ["CARGO_PKG_", "CARGO_MANIFEST_"];

/// Runs a command to its end. Its output goes to the user.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{} cannot be started", typed(command)))?;
    ensure!(status.success(), "{} failed ({status})", typed(command));
    Ok(())
}

/// A command as a person would type it.
pub fn typed(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = [program].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Like [`run`], without output, for a command that only answers yes or no.
pub fn quiet(arguments: &[&str]) -> Result<()> {
    run(command().args(arguments).stdout(Stdio::null()).stderr(Stdio::null()))
}

/// A program that cargo built.
pub struct Program {
    /// The folder of its package: `tests`.
    pub package: PathBuf,
    /// The name of the target: `lb`.
    pub name: String,
    /// The kind of the target: `lib`, `bin`, `test`.
    pub kind: String,
    /// Whether the program runs tests.
    pub is_test: bool,
    /// The executable.
    pub file: PathBuf,
}

/// `cargo <action>` for release, because the demo, the tests and the benchmarks are about time. The programs are
/// linked statically: one file runs on any distribution, and in an image with nothing else in it. The target is
/// named although it is this machine. Without `--target`, the flags would also apply to procedural macros, which
/// are shared libraries.
pub fn release(action: &str) -> Result<Command> {
    release_for(Architecture::host()?, action)
}

fn release_for(architecture: Architecture, action: &str) -> Result<Command> {
    let target = architecture.target()?;
    let mut command = command();
    command.args([action, "--release", "--target", &target, "--config"]);
    command.arg(format!("target.{target}.rustflags=['-Ctarget-feature=+crt-static']"));
    if !architecture.is_host() {
        command.arg("--config").arg(format!("target.{target}.linker='{}'", architecture.tool("gcc")));
    }
    Ok(command)
}

/// Builds for release, and returns the programs.
pub fn build(arguments: &[&str]) -> Result<Vec<Program>> {
    build_for(Architecture::host()?, arguments)
}

/// Like [`build`], for an architecture that need not be this machine's.
pub fn build_for(architecture: Architecture, arguments: &[&str]) -> Result<Vec<Program>> {
    let output = release_for(architecture, "build")?
        .arg("--message-format=json-render-diagnostics")
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be started")?;
    ensure!(output.status.success(), "the build failed, see above");
    let messages = String::from_utf8_lossy(&output.stdout);
    Ok(messages.lines().filter_map(|line| program(&serde_json::from_str(line).ok()?)).collect())
}

fn program(message: &Value) -> Option<Program> {
    let manifest = Path::new(message["manifest_path"].as_str()?);
    Some(Program {
        package: manifest.parent()?.to_owned(),
        name: message["target"]["name"].as_str()?.to_owned(),
        kind: message["target"]["kind"][0].as_str()?.to_owned(),
        is_test: message["profile"]["test"].as_bool()?,
        file: message["executable"].as_str()?.into(),
    })
}

/// The path of the program `name`; test programs are ignored.
pub fn find<'a>(programs: &'a [Program], name: &str) -> Result<&'a Path> {
    let program = programs.iter().find(|program| program.name == name && !program.is_test);
    Ok(&program.with_context(|| format!("the workspace has no program `{name}`"))?.file)
}
