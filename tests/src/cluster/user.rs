//! The users of the API, and the files with their credentials.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};

/// A token, and the user to whom it belongs.
#[derive(Clone, Copy, Debug)]
pub struct User {
    /// The name of the kubeconfig; the token is the same text.
    pub name: &'static str,
    pub user: &'static str,
    pub groups: &'static str,
}

/// All users that the server knows. The server reads its file of tokens at start.
pub const USERS: [User; 4] = [
    User { name: "admin", user: "admin", groups: "system:masters" },
    // The ServiceAccount of the DaemonSet, which may do what RBAC objects of the test say.
    User { name: "lb", user: "system:serviceaccount:kube-system:lb", groups: "system:serviceaccounts" },
    // The next token of the same ServiceAccount.
    User {
        name: "lb-rotated",
        user: "system:serviceaccount:kube-system:lb",
        groups: "system:serviceaccounts",
    },
    User { name: "nobody", user: "nobody", groups: "" },
];

/// Writes lines of `token,user,uid,"groups"` for `--token-auth-file` of kube-apiserver.
pub(super) fn write_tokens(file: &Path) -> Result<()> {
    let line =
        |(uid, User { name, user, groups }): (usize, &User)| format!("{name},{user},{uid},\"{groups}\"\n");
    let lines: String = USERS.iter().enumerate().map(line).collect();
    fs::write(file, lines).with_context(|| file.display().to_string())
}

/// A kubeconfig that names the file of the certificate, so that a renewed certificate is seen.
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
