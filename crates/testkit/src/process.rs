//! One started program: its output in a file, shown when the test that owns it fails; killed on drop.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::namespace::Namespace;

/// The user that proxies run as, exempt from interception.
pub const PROXY_UID: u32 = 1337;

/// Lets this process, and those it starts from now on, open at least so many files.
pub fn allow_open_files(files: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= files {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, files, hard.max(files))
        .with_context(|| format!("allowing {files} open files, of {hard} at most"))
}

/// How to start a program.
pub struct Launch<'a> {
    pub namespace: &'a Namespace,
    pub program: &'a Path,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Run as this user and group.
    pub uid: Option<u32>,
    /// Name of the log file and of the failure report.
    pub name: String,
    pub log_dir: &'a Path,
}

/// A running (or finished) program.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts it; its standard output and error go to `LOG_DIR/NAME.log`, appended.
    pub fn start(launch: Launch<'_>) -> Result<Self> {
        let log = launch.log_dir.join(format!("{}.log", launch.name));
        let out = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(launch.program);
        command
            .args(&launch.args)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        command.envs(launch.env);
        // Its own process group, so that Ctrl-C at a terminal reaches only whoever owns it.
        command.process_group(0);
        if let Some(uid) = launch.uid {
            command.uid(uid).gid(uid);
        }
        let child = launch
            .namespace
            .run(move || command.spawn())?
            .with_context(|| format!("starting {}", launch.program.display()))?;
        Ok(Self {
            child,
            name: launch.name,
            log,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Everything it printed so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        // It may already be gone, which the next wait tells.
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }

    /// Waits for its end, at most `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} did not end within {limit:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Whether it still runs, without reaping it.
    pub fn is_running(&self) -> bool {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        let state = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().next());
        state.is_some_and(|state| state != "Z" && state != "X")
    }

    /// SIGTERM, then SIGKILL after `limit`.
    pub fn stop(&mut self, limit: Duration) {
        self.signal(Signal::SIGTERM);
        if self.wait(limit).is_err() {
            self.kill();
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let early = self.ended();
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            eprintln!(
                "--- {} ({}), last lines of {}:",
                self.name,
                describe(early),
                self.log.display()
            );
            for line in tail.iter().rev() {
                eprintln!("    {}", line.chars().take(400).collect::<String>());
            }
        }
    }
}

fn describe(ended: Option<ExitStatus>) -> String {
    ended.map_or("running".to_owned(), |status| status.to_string())
}
