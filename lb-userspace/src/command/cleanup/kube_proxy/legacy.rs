//! What kube-proxy left in iptables-legacy: found through the interface of the kernel, which needs no program, and
//! removed by `iptables-legacy-restore`, in one transaction for each table.

use std::collections::BTreeMap;
use std::io;

use anyhow::{Context, bail, ensure};

use super::chains::{Chain, Removal, Rule, is_kube_proxys, removal};
use super::family::NfFamily;
use super::host::{Host, said};
use super::phrase::count;
use super::xtables;

/// The table with the chain FORWARD, which firewalls use.
const FILTER: &str = "filter";

/// Chains of kube-proxy in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub family: NfFamily,
    pub table: String,
    pub chains: Vec<String>,
}

impl Found {
    /// The finding as a phrase.
    pub fn summary(&self) -> String {
        format!("iptables-legacy {} {}: {}", self.family, self.table, count(self.chains.len(), "chain"))
    }
}

/// The tables of this network namespace that have chains of kube-proxy. Creates no table: only tables that the kernel
/// lists are read.
///
/// # Errors
/// The error of the kernel; `PermissionDenied` without CAP_NET_ADMIN.
pub fn find() -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for family in NfFamily::BOTH {
        for table in tables(family)? {
            let mut chains = xtables::chains(family, &table)?;
            chains.retain(|chain| is_kube_proxys(chain));
            if !chains.is_empty() {
                found.push(Found { family, table, chains });
            }
        }
    }
    Ok(found)
}

/// Returns true if the policy of FORWARD drops what no rule accepts. Creates no table.
///
/// # Errors
/// The errors of [`find`].
pub fn drops_forwarded(family: NfFamily) -> io::Result<bool> {
    Ok(tables(family)?.iter().any(|table| table == FILTER) && xtables::drops_forwarded(family, FILTER)?)
}

fn tables(family: NfFamily) -> io::Result<Vec<String>> {
    let file = match family {
        NfFamily::V4 => "/proc/thread-self/net/ip_tables_names",
        NfFamily::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    match std::fs::read_to_string(file) {
        Ok(names) => Ok(names.lines().map(str::to_owned).collect()),
        // The kernel lacks iptables-legacy.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// `iptables-legacy-save` and `-restore` of one family.
#[derive(Clone, Debug)]
pub struct Programs {
    save: String,
    restore: String,
    host: Host,
}

impl Programs {
    /// Looks for the programs.
    ///
    /// # Errors
    /// If there are none; the error says what to do.
    pub fn find(family: NfFamily, host: &Host) -> anyhow::Result<Self> {
        let prefix = match family {
            NfFamily::V4 => "iptables",
            NfFamily::V6 => "ip6tables",
        };
        for variant in ["-legacy", ""] {
            let programs = Self {
                save: format!("{prefix}{variant}-save"),
                restore: format!("{prefix}{variant}-restore"),
                host: host.clone(),
            };
            match host.run(&programs.save, &["--version"], "") {
                // Before 1.8 there was only one variant, without a name.
                Ok(output) if !String::from_utf8_lossy(&output.stdout).contains("nf_tables") => {
                    return Ok(programs);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| programs.save.clone()),
            }
        }
        bail!(
            "there is no {prefix}-legacy-restore in {}: run `lb cleanup --kube-proxy` on a host that has it, pass \
             the host's file system with --host-root, or run `kube-proxy --cleanup` in kube-proxy's own image",
            host.root.display()
        )
    }

    /// Plans what removes kube-proxy from a table.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn plan(&self, table: &str) -> anyhow::Result<RestorePlan> {
        let output = self.host.run(&self.save, &["-t", table], "").with_context(|| self.save.clone())?;
        ensure!(output.status.success(), "{}: {}", self.save, said(&output));
        let text = String::from_utf8_lossy(&output.stdout);
        let removal = removal(&parse(&text));
        Ok(RestorePlan { input: restore_input(table, &removal), removal, restore: self.restore.clone() })
    }

    /// Carries out a plan, completely or not at all.
    ///
    /// # Errors
    /// If the program fails; with the message of the program.
    pub fn apply(&self, plan: &RestorePlan) -> anyhow::Result<()> {
        // `--wait` takes the lock that every iptables-legacy takes.
        let output = self
            .host
            .run(&self.restore, &["--noflush", "--wait", "10"], &plan.input)
            .with_context(|| self.restore.clone())?;
        ensure!(output.status.success(), "{}: {}", self.restore, said(&output));
        Ok(())
    }
}

/// The plan for one table.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    pub removal: Removal,
    /// What iptables-restore reads.
    input: String,
    restore: String,
}

impl RestorePlan {
    /// The command that does what [`Programs::apply`] does.
    pub fn command(&self) -> String {
        format!("{} --noflush --wait 10 <<'END'\n{}END", self.restore, self.input)
    }
}

/// Declaring a chain that exists empties the chain, even with --noflush.
fn restore_input(table: &str, removal: &Removal) -> String {
    let emptied = removal.emptied.iter().map(|(chain, _)| chain).chain(&removal.chains);
    let mut lines = vec![format!("*{table}")];
    lines.extend(emptied.map(|chain| format!(":{chain} - [0:0]")));
    lines.extend(removal.rules.iter().map(|(_, rule)| rule.replacen("-A ", "-D ", 1)));
    lines.extend(removal.chains.iter().map(|chain| format!("-X {chain}")));
    lines.push("COMMIT\n".to_owned());
    lines.join("\n")
}

/// Parses what `iptables-save -t TABLE` prints.
fn parse(text: &str) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    let mut index = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, rest)) = line.strip_prefix(':').and_then(|line| line.split_once(' ')) {
            // User-defined chains have no policy.
            let builtin = !rest.starts_with('-');
            index.insert(name, chains.len());
            chains.push(Chain { name: name.to_owned(), builtin, rules: Vec::new() });
        } else if line.starts_with("-A ") {
            let words = words(line);
            let target = words.iter().position(|word| matches!(word.as_str(), "-j" | "-g"));
            let jump = target.and_then(|at| words.get(at + 1)).cloned();
            if let Some(chain) = words.get(1).and_then(|name| index.get(name.as_str())) {
                chains[*chain].rules.push(Rule { jump, id: line.to_owned() });
            }
        }
    }
    chains
}

/// Splits a rule into words. A quoted text is one word, and keeps its quotes so that it is not taken for an option.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quoted, mut escaped) = (false, false);
    for c in line.chars() {
        match c {
            _ if escaped => {
                escaped = false;
                word.push(c);
            }
            '\\' if quoted => escaped = true,
            '"' => {
                quoted = !quoted;
                word.push(c);
            }
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = r#"# Generated by iptables-save v1.8.9 on Sat Nov 21 12:22:01 2026
*nat
:PREROUTING ACCEPT [3:180]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "say -j \"KUBE-SERVICES\" twice" -j DOCKER
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A DOCKER -i docker0 -j RETURN
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-SERVICES ! -s 10.244.0.0/16 -d 10.96.0.1/32 -p tcp -j KUBE-MARK-MASQ
COMMIT
# Completed on Sat Nov 21 12:22:01 2026
"#;

    #[test]
    fn a_quoted_comment_is_no_target() {
        let chains = parse(SAVED);
        let jumps: Vec<_> = chains[0].rules.iter().map(|rule| rule.jump.as_deref()).collect();
        assert_eq!(jumps, [Some("DOCKER"), Some("KUBE-SERVICES")]);
        assert!(chains[0].builtin && !chains[2].builtin);
    }

    #[test]
    fn the_input_of_restore_deletes_jumps_and_chains_and_nothing_else() {
        let input = restore_input("nat", &removal(&parse(SAVED)));
        assert_eq!(
            input,
            "*nat\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-SERVICES - [0:0]\n-D PREROUTING -m comment --comment \
             \"kubernetes service portals\" -j KUBE-SERVICES\n-X KUBE-MARK-MASQ\n-X KUBE-SERVICES\nCOMMIT\n"
        );
    }
}
