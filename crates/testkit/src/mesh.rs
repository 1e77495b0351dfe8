//! A whole mesh for one test: a network, a control plane on a config folder, and pods with their
//! applications and sidecars. Everything ends with it.

mod manifest;
mod pod;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::binaries;
use crate::client::Ask;
use crate::config::ConfigFolder;
use crate::metrics::Metrics;
use crate::namespace::{HUB_IP, Namespace, Network};
use crate::process::{Launch, Process};
use crate::wait;

pub use manifest::{PodSpec, service};
pub use pod::{Load, RunningPod, Sidecar, SidecarOptions};

/// How long a process may take to be ready. Generous: two tests and their proxies share the machine.
pub const READY: Duration = Duration::from_secs(30);

/// The control plane's flags beyond the usual.
#[derive(Clone, Debug, Default)]
pub struct ControlOptions {
    pub args: Vec<String>,
}

/// Network, control plane, config folder.
pub struct Mesh {
    // In this order: processes end before their namespaces go.
    control: Mutex<Option<Process>>,
    pub network: Network,
    pub config: ConfigFolder,
    folder: PathBuf,
    keep: Option<tempfile::TempDir>,
    options: ControlOptions,
}

impl Mesh {
    /// A mesh with a running control plane; `test` names its folder of logs.
    pub fn start(test: &str) -> Result<Self> {
        Self::start_with(test, ControlOptions::default())
    }

    /// The same with extra flags.
    pub fn start_with(test: &str, options: ControlOptions) -> Result<Self> {
        let mesh = Self::without_control(test, options)?;
        mesh.start_control()?;
        Ok(mesh)
    }

    /// Network and folders only.
    pub fn without_control(test: &str, options: ControlOptions) -> Result<Self> {
        let temporary = tempfile::Builder::new()
            .prefix(&format!("tasuki-{test}-"))
            .tempdir()?;
        let folder = temporary.path().to_owned();
        // Proxies run as another user and write their state below.
        open_to_all(&folder)?;
        std::fs::create_dir_all(folder.join("logs"))?;
        Ok(Self {
            control: Mutex::new(None),
            network: Network::new()?,
            config: ConfigFolder::create(&folder)?,
            keep: Some(temporary),
            folder,
            options,
        })
    }

    /// Where state and logs of this mesh are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The control plane's state.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("control")
    }

    fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// Starts (or restarts) the control plane and waits until it is ready.
    pub fn start_control(&self) -> Result<()> {
        let program = binaries::find("tasuki-control")?;
        let mut args: Vec<String> = vec![
            "--config-dir".into(),
            self.config.path().display().to_string(),
            "--state-dir".into(),
            self.state_dir().display().to_string(),
            "--xds".into(),
            format!("{HUB_IP}:15010"),
            "--allow-plaintext-xds".into(),
            "--xds-tls".into(),
            format!("{HUB_IP}:15012"),
            "--xds-tls-name".into(),
            HUB_IP.to_string(),
            "--admin".into(),
            "127.0.0.1:15014".into(),
        ];
        args.extend(self.options.args.iter().cloned());
        let process = Process::start(Launch {
            namespace: self.network.hub(),
            program: &program,
            args,
            env: Vec::new(),
            uid: None,
            name: "control".into(),
            log_dir: &self.logs(),
        })?;
        *self.lock_control() = Some(process);
        let ended = wait::until("the control plane is ready", READY, || {
            let ended = self.lock_control().as_mut().and_then(Process::ended);
            match ended {
                Some(status) => Ok(Some(status)),
                None => self.control_get("/ready").map(|_| None),
            }
        })?;
        match ended {
            Some(status) => bail!("the control plane ended: {status}: {}", self.control_log()),
            None => Ok(()),
        }
    }

    fn lock_control(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.control.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What the control plane printed.
    pub fn control_log(&self) -> String {
        std::fs::read_to_string(self.logs().join("control.log")).unwrap_or_default()
    }

    /// kill -9.
    pub fn kill_control(&self) {
        if let Some(mut process) = self.lock_control().take() {
            process.kill();
        }
    }

    /// Resident memory of the control plane, in bytes.
    pub fn control_resident(&self) -> Result<u64> {
        self.lock_control()
            .as_ref()
            .context("no control plane")?
            .resident()
    }

    /// GET on the control plane's admin port; anything but 200 is an error.
    pub fn control_get(&self, path: &str) -> Result<String> {
        get(self.network.hub(), "127.0.0.1:15014", path)
    }

    /// The control plane's metrics.
    pub fn control_metrics(&self) -> Result<Metrics> {
        Metrics::parse(&self.control_get("/metrics")?)
    }

    /// Writes a resource file.
    pub fn apply(&self, name: &str, yaml: &str) -> Result<()> {
        self.config.apply(name, yaml)
    }

    /// Makes the pod's namespace and writes its `Pod`.
    pub fn pod(&self, spec: PodSpec) -> Result<RunningPod> {
        let namespace = self.network.pod(&spec.name)?;
        RunningPod::new(namespace, spec, self.folder.clone(), self.config.clone())
    }

    /// A join token for a service account, as `tasuki token` prints it.
    pub fn token(&self, namespace: &str, account: &str, ttl: &str) -> Result<String> {
        token(&self.state_dir(), namespace, account, ttl)
    }

    /// Runs `tasuki ca rotate` to its end, which comes when the last certificate of the old root has expired.
    pub fn rotate_ca(&self, limit: Duration) -> Result<()> {
        let mut process = Process::start(Launch {
            namespace: self.network.hub(),
            program: &binaries::find("tasuki")?,
            args: vec![
                "ca".into(),
                "rotate".into(),
                format!("--state-dir={}", self.state_dir().display()),
            ],
            env: Vec::new(),
            uid: None,
            name: "rotate".into(),
            log_dir: &self.logs(),
        })?;
        let status = process.wait(limit).with_context(|| process.log())?;
        ensure!(
            status.success(),
            "tasuki ca rotate: {status}: {}",
            process.log()
        );
        Ok(())
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if let Some(mut control) = self.lock_control().take()
            && !std::thread::panicking()
        {
            control.kill();
        }
        if std::thread::panicking()
            && let Some(folder) = self.keep.take()
        {
            eprintln!("--- logs and state are kept in {}", folder.keep().display());
        }
    }
}

/// A join token from `tasuki token`.
pub fn token(state_dir: &Path, namespace: &str, account: &str, ttl: &str) -> Result<String> {
    let program = binaries::find("tasuki")?;
    let account = format!("{namespace}/{account}");
    let output = std::process::Command::new(&program)
        .args([
            "token",
            "--service-account",
            &account,
            "--ttl",
            ttl,
            "--state-dir",
        ])
        .arg(state_dir)
        .output()
        .with_context(|| format!("running {}", program.display()))?;
    ensure!(
        output.status.success(),
        "tasuki token: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// GET that must be answered with 200.
pub fn get(namespace: &Namespace, address: &str, path: &str) -> Result<String> {
    let answer = Ask::get(address.parse()?, address, path).send(namespace)?;
    ensure!(
        answer.status == 200,
        "GET {address}{path}: {} {}",
        answer.status,
        answer.body.trim()
    );
    Ok(answer.body)
}

/// Lets every user read and write a folder.
pub fn open_to_all(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(
        folder,
        std::fs::Permissions::from_mode(0o777),
    )?)
}
