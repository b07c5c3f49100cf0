//! Who may ask the API, and the files by which they do.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};

/// A token, and who it stands for.
#[derive(Clone, Copy, Debug)]
pub struct User {
    /// The name of the kubeconfig; the token is the same.
    pub name: &'static str,
    pub user: &'static str,
    pub groups: &'static str,
}

/// Everybody whom the server knows. Its file of tokens is read when it starts.
pub const USERS: [User; 4] = [
    User { name: "admin", user: "admin", groups: "system:masters" },
    // As the ServiceAccount of the DaemonSet is known; it may do what RBAC objects of the test say.
    User { name: "lb", user: "system:serviceaccount:kube-system:lb", groups: "system:serviceaccounts" },
    // The same one's next token.
    User {
        name: "lb-rotated",
        user: "system:serviceaccount:kube-system:lb",
        groups: "system:serviceaccounts",
    },
    User { name: "nobody", user: "nobody", groups: "" },
];

/// Lines of `token,user,uid,"groups"`: kube-apiserver, `--token-auth-file`.
pub(super) fn write_tokens(file: &Path) -> Result<()> {
    let line =
        |(uid, User { name, user, groups }): (usize, &User)| format!("{name},{user},{uid},\"{groups}\"\n");
    let lines: String = USERS.iter().enumerate().map(line).collect();
    fs::write(file, lines).with_context(|| file.display().to_string())
}

/// A kubeconfig that names the file of the certificate, so that a renewed one is seen.
pub(super) fn kubeconfig(name: &str, address: SocketAddr, certificate: &Path) -> Result<String> {
    let User { name, .. } =
        USERS.iter().find(|user| user.name == name).with_context(|| format!("no user {name}"))?;
    let certificate = certificate.display();
    Ok(format!(
        "apiVersion: v1\n\
         kind: Config\n\
         current-context: {name}\n\
         clusters:\n\
         - name: test\n  cluster:\n    server: https://{address}\n    certificate-authority: {certificate}\n\
         users:\n\
         - name: {name}\n  user:\n    token: {name}\n\
         contexts:\n\
         - name: {name}\n  context:\n    cluster: test\n    user: {name}\n"
    ))
}
