//! Brings rules into the kernel through the system's own iptables, whichever of its two back ends works here.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

use super::rules::{Family, Jump};

/// Gives the loopback interface `::6`, or takes it away again. IPv4's 127.0.0.6 needs no such thing: all of 127/8 is there.
pub(super) fn own_source(action: &str) -> anyhow::Result<()> {
    let output = Command::new("ip")
        .args(["-6", "address", action, "::6/128", "dev", "lo"])
        .output()
        .context("ip")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("ip: {}", String::from_utf8_lossy(&output.stderr).trim())
}

/// One working set of commands: `iptables` and `iptables-restore`, or their `-nft` or `-legacy` variants.
#[derive(Debug)]
pub(super) struct Tool {
    family: Family,
    variant: &'static str,
}

impl Tool {
    /// The first variant that can list its nat table. Plain `iptables` first: it is what the distribution chose,
    /// and what others in this namespace use; rules of the two back ends do not see each other.
    pub fn find(family: Family) -> anyhow::Result<Self> {
        let mut complaint = String::new();
        for variant in ["", "-nft", "-legacy"] {
            let tool = Self { family, variant };
            match tool.run(&["-t", "nat", "-S"]) {
                Ok(output) if output.status.success() => return Ok(tool),
                Ok(output) => complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                Err(e) if complaint.is_empty() => complaint = format!("{}: {e}", tool.command()),
                Err(_) => {}
            }
        }
        bail!("no usable {}: {complaint}", family.command())
    }

    /// Whether the kernel has this jump already.
    pub fn has(&self, jump: &Jump) -> anyhow::Result<bool> {
        // A chain of ours that does not exist makes the check fail too: then there is no jump to it.
        Ok(self.edit("-C", jump)?.status.success())
    }

    pub fn delete(&self, jump: &Jump) -> anyhow::Result<()> {
        self.succeed(self.edit("-D", jump)?)
    }

    /// Empties and deletes a chain of ours if it exists.
    pub fn drop_chain(&self, table: &str, chain: &str) -> anyhow::Result<()> {
        if !self.run(&["-t", table, "-S", chain])?.status.success() {
            return Ok(());
        }
        self.succeed(self.run(&["-t", table, "-F", chain])?)?;
        self.succeed(self.run(&["-t", table, "-X", chain])?)
    }

    /// Applies `input` as one transaction per table.
    pub fn restore(&self, input: &str) -> anyhow::Result<()> {
        let name = format!("{}{}-restore", self.family.command(), self.variant);
        let mut child = Command::new(&name)
            .args(["--noflush", "--wait"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| name.clone())?;
        child
            .stdin
            .take()
            .context("no standard input")?
            .write_all(input.as_bytes())?;
        self.succeed(child.wait_with_output()?)
    }

    fn edit(&self, action: &str, jump: &Jump) -> anyhow::Result<Output> {
        let mut words = vec!["-t", jump.table, action, jump.from];
        words.extend(jump.words());
        self.run(&words)
    }

    fn run(&self, words: &[&str]) -> anyhow::Result<Output> {
        let name = self.command();
        Command::new(&name)
            .arg("--wait")
            .args(words)
            .output()
            .with_context(|| name)
    }

    fn command(&self) -> String {
        format!("{}{}", self.family.command(), self.variant)
    }

    fn succeed(&self, output: Output) -> anyhow::Result<()> {
        if output.status.success() {
            return Ok(());
        }
        bail!(
            "{}: {}",
            self.command(),
            String::from_utf8_lossy(&output.stderr).trim()
        )
    }
}
