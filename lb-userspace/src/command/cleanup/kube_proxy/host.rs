//! Programs of the host, for what netlink cannot do.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A file system with programs: our own, or that of the host, mounted on a folder.
#[derive(Clone, Debug)]
pub struct Host {
    pub root: PathBuf,
}

impl Host {
    /// Runs a program of one of the usual folders to its end.
    ///
    /// # Errors
    /// `NotFound` if there is no such program. If the program fails, its message is in the output.
    pub fn run(&self, program: &str, args: &[&str], input: &str) -> io::Result<Output> {
        let mut command = Command::new(program);
        command.args(args).env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.root != Path::new("/") {
            let root = std::ffi::CString::new(self.root.as_os_str().as_encoded_bytes())?;
            // SAFETY: between fork and exec there are only two async-signal-safe calls, on a string made before.
            unsafe {
                command.pre_exec(move || {
                    if libc::chroot(root.as_ptr()) == 0 && libc::chdir(c"/".as_ptr()) == 0 {
                        Ok(())
                    } else {
                        Err(io::Error::last_os_error())
                    }
                });
            }
        }
        let mut child = command.spawn()?;
        let mut stdin =
            child.stdin.take().ok_or_else(|| io::Error::other("the program has no standard input"))?;
        let written = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output()?;
        // The message of a program that failed matters more than its not reading to the end.
        if output.status.success() { written.map(|()| output) } else { Ok(output) }
    }
}

/// What a program wrote to standard error.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}
