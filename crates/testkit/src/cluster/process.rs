//! The first process of a container, as the machine sees it that the cluster runs on: what it costs, and its network.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::namespace::Namespace;
use crate::wait;

/// In a second, on every machine that Linux runs on today.
const TICKS: f64 = 100.0;

/// A running container's first process. Its numbers are the kernel's.
#[derive(Clone, Debug)]
pub struct Process {
    pid: u32,
    namespace: Namespace,
}

impl Process {
    /// Of a container of a pod as the API server shows it.
    pub fn of(pod: &Value, container: &str) -> Result<Self> {
        let status = &pod["status"];
        let statuses = ["containerStatuses", "initContainerStatuses"];
        let mut statuses = statuses
            .iter()
            .filter_map(|list| status[list].as_array())
            .flatten();
        let id = statuses
            .find(|status| status["name"] == container)
            .and_then(|status| status["containerID"].as_str())
            .and_then(|id| id.strip_prefix("containerd://"))
            .with_context(|| format!("{container} has not started: {status}"))?;
        let ip = status["podIP"].as_str().context("no address")?.parse()?;
        let pid = first_of(id).with_context(|| format!("{container} has no process"))?;
        let namespace = Namespace::of_process(pid, ip);
        Ok(Self { pid, namespace })
    }

    /// The pod's network.
    pub fn network(&self) -> &Namespace {
        &self.namespace
    }

    /// Runs a program of the container's image in its files and network; what it is follows.
    pub fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        let target = format!("--target={}", self.pid);
        command.args([&target, "--net", "--mount", "--"]);
        // Ours to find `nsenter`, and the image's for what follows.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/local/bin"));
        command
    }

    /// Bytes of memory in use, and the most that they have been.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let status = self.read("status")?;
        let of = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes = line.and_then(|line| line.split_whitespace().next());
            Ok(kilobytes
                .with_context(|| format!("no {name}"))?
                .parse::<u64>()?
                * 1_024)
        };
        Ok((of("VmRSS:")?, of("VmHWM:")?))
    }

    /// Processor time of all its threads so far, those that have ended too, to a hundredth of a second.
    pub fn cpu(&self) -> Result<Duration> {
        let ticks = self.ticks(14)? + self.ticks(15)?;
        Ok(Duration::from_secs_f64(ticks / TICKS))
    }

    /// How long ago it was started, to a hundredth of a second.
    pub fn age(&self) -> Result<Duration> {
        let uptime = fs::read_to_string("/proc/uptime")?;
        let uptime: f64 = uptime.split(' ').next().context("no uptime")?.parse()?;
        let started = self.ticks(22)? / TICKS;
        Ok(Duration::from_secs_f64((uptime - started).max(0.0)))
    }

    /// A field of `stat`, counted from one as proc(5) does, that is a time.
    fn ticks(&self, field: usize) -> Result<f64> {
        let stat = self.read("stat")?;
        // The second field is a name in brackets, which may have blanks.
        let (_, fields) = stat.rsplit_once(") ").context("no name")?;
        let ticks = fields.split(' ').nth(field - 3);
        Ok(ticks
            .with_context(|| format!("no field {field}"))?
            .parse()?)
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.pid);
        fs::read_to_string(&path).context(path)
    }
}

/// The process that the container sees as its first. A container has just been started: its control group may be filled a
/// moment later.
fn first_of(container: &str) -> Result<u32> {
    wait::until("a container's process", Duration::from_secs(5), || {
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let pid = path
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok());
            let read = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
            if let Some(pid) = pid
                && read("cgroup").contains(container)
                && read("status").lines().any(is_first)
            {
                return Ok(pid);
            }
        }
        anyhow::bail!("none in the control group of {container}")
    })
}

/// Whether a line of `status` says that the process is the first of its namespace of processes.
fn is_first(line: &str) -> bool {
    line.starts_with("NSpid:") && line.split_whitespace().next_back() == Some("1")
}
