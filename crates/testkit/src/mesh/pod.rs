//! One pod of a test mesh: its namespace, its applications, its sidecar.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{PodSpec, READY, get, open_to_all};
use crate::binaries;
use crate::client::{Answer, Ask};
use crate::config::ConfigFolder;
use crate::load::{Plan, Report, Stop, run_until};
use crate::metrics::Metrics;
use crate::namespace::{HUB_IP, Namespace};
use crate::origin::{Kind, Origin};
use crate::process::{Launch, PROXY_UID, Process};
use crate::wait;

/// A pod whose namespace exists.
pub struct RunningPod {
    pub namespace: Namespace,
    pub spec: PodSpec,
    mesh: PathBuf,
    config: ConfigFolder,
}

/// How the sidecar is started.
#[derive(Clone, Debug)]
pub struct SidecarOptions {
    /// `http://...:15010` or `https://...:15012`.
    pub control: String,
    pub args: Vec<String>,
    /// Life of its join token.
    pub token_ttl: String,
    /// Whether traffic is redirected to it.
    pub redirect: bool,
}

impl Default for SidecarOptions {
    fn default() -> Self {
        Self {
            control: format!("https://{HUB_IP}:15012"),
            args: Vec::new(),
            token_ttl: "1h".to_owned(),
            redirect: true,
        }
    }
}

impl SidecarOptions {
    /// Adds flags.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }
}

/// A running `tasuki-proxy sidecar`.
pub struct Sidecar {
    pub process: Process,
    namespace: Namespace,
    _program: binaries::Shared,
}

impl RunningPod {
    pub(super) fn new(
        namespace: Namespace,
        spec: PodSpec,
        mesh: PathBuf,
        config: ConfigFolder,
    ) -> Result<Self> {
        let pod = Self {
            namespace,
            spec,
            mesh,
            config,
        };
        pod.config
            .apply(&pod.file(), &pod.spec.yaml(&pod.namespace))?;
        Ok(pod)
    }

    /// Rewrites its `Pod` with another `Ready` condition.
    pub fn set_ready(&mut self, ready: bool) -> Result<()> {
        self.spec.ready = ready;
        self.config
            .apply(&self.file(), &self.spec.yaml(&self.namespace))
    }

    /// Deletes its `Pod`; its processes go on.
    pub fn remove(&self) -> Result<()> {
        self.config.remove(&self.file())
    }

    /// Name of the file of its `Pod`.
    fn file(&self) -> String {
        format!("pod-{}-{}", self.spec.namespace, self.spec.name)
    }

    /// An HTTP application on all addresses of the pod, whose answers carry the pod's name.
    pub fn http(&self, port: u16) -> Result<Origin> {
        self.origin(port, Kind::Http)
    }

    /// An application on all addresses of the pod.
    pub fn origin(&self, port: u16, kind: Kind) -> Result<Origin> {
        Origin::start(
            &self.namespace,
            &self.spec.name,
            SocketAddr::from(([0, 0, 0, 0], port)),
            kind,
        )
    }

    /// A socket address of the pod.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.namespace.ip), port)
    }

    /// Starts its sidecar with the usual options and waits until it is ready.
    pub fn sidecar(&self) -> Result<Sidecar> {
        self.sidecar_with(SidecarOptions::default())
    }

    /// The same with others.
    pub fn sidecar_with(&self, options: SidecarOptions) -> Result<Sidecar> {
        let sidecar = self.launch_sidecar(options)?;
        sidecar.wait_ready()?;
        Ok(sidecar)
    }

    /// Starts it without waiting.
    pub fn launch_sidecar(&self, options: SidecarOptions) -> Result<Sidecar> {
        let program = binaries::shared("tasuki-proxy")?;
        let state = self.state_dir();
        std::fs::create_dir_all(&state)?;
        open_to_all(&state)?;
        let token = self.write_token(&options.token_ttl)?;
        let name = format!("{}-{}", self.spec.namespace, self.spec.name);
        let mut args = vec![
            "sidecar".to_owned(),
            format!("--control={}", options.control),
            format!("--pod={}/{}", self.spec.namespace, self.spec.name),
            format!("--token-file={}", token.display()),
            format!("--state-dir={}", state.display()),
            "--workers=1".to_owned(),
            "--access-log=all".to_owned(),
        ];
        if options.control.starts_with("https") {
            args.push(format!(
                "--control-ca={}",
                self.mesh.join("root-cert.pem").display()
            ));
            share_root(&self.mesh)?;
        }
        args.extend(options.args);
        if options.redirect {
            let proxy = program.display().to_string();
            self.namespace
                .command(&proxy, &["redirect", "install"])
                .context("tasuki-proxy redirect install")?;
        }
        let process = Process::start(Launch {
            namespace: &self.namespace,
            program: &program,
            args,
            env: Vec::new(),
            uid: Some(PROXY_UID),
            name,
            log_dir: &self.mesh.join("logs"),
        })?;
        Ok(Sidecar {
            process,
            namespace: self.namespace.clone(),
            _program: program,
        })
    }

    /// Where its sidecar keeps state.
    pub fn state_dir(&self) -> PathBuf {
        self.mesh
            .join(format!("proxy-{}-{}", self.spec.namespace, self.spec.name))
    }

    /// Writes a fresh token to the pod's token file.
    pub fn write_token(&self, ttl: &str) -> Result<PathBuf> {
        let token = super::token(
            &self.mesh.join("control"),
            &self.spec.namespace,
            &self.spec.account,
            ttl,
        )?;
        let path = self
            .mesh
            .join(format!("token-{}-{}", self.spec.namespace, self.spec.name));
        let staged = path.with_extension("new");
        std::fs::write(&staged, token)?;
        readable(&staged)?;
        std::fs::rename(&staged, &path)?;
        Ok(path)
    }

    /// One request from the application's side.
    pub fn send(&self, ask: Ask) -> Result<Answer> {
        ask.send(&self.namespace)
    }

    /// GET over HTTP/1.1 from the application's side: `target` is the address dialled.
    pub fn get(&self, target: &str, authority: &str, path: &str) -> Result<Answer> {
        self.send(Ask::get(target.parse()?, authority, path))
    }

    /// Runs a load to its end.
    pub fn load(&self, plan: Plan) -> Result<Report> {
        self.namespace.block_on(move || crate::load::run(plan))
    }

    /// Starts a load in the background.
    pub fn start_load(&self, plan: Plan) -> Load {
        let stop = Stop::default();
        let (handle, namespace) = (stop.clone(), self.namespace.clone());
        let started = std::time::Instant::now();
        let thread =
            std::thread::spawn(move || namespace.block_on(move || run_until(plan, handle, None)));
        Load {
            stop,
            started,
            thread: Some(thread),
        }
    }
}

/// A load that runs until it is finished.
pub struct Load {
    stop: Stop,
    started: std::time::Instant,
    thread: Option<JoinHandle<Result<Report>>>,
}

impl Load {
    /// Time since it began, comparable with `Sample::sent`.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Lets it go on for a while.
    pub fn run_for(&self, time: Duration) {
        std::thread::sleep(time);
    }

    /// Stops sending, waits for what is in flight, and returns all.
    pub fn finish(mut self) -> Result<Report> {
        self.stop.stop();
        self.join()
    }

    /// Waits for the plan's own end.
    pub fn join(&mut self) -> Result<Report> {
        let thread = self.thread.take().context("already finished")?;
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("the load client panicked"))?
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Sidecar {
    /// Waits for its readiness.
    pub fn wait_ready(&self) -> Result<()> {
        wait::until("the sidecar is ready", READY, || {
            get(&self.namespace, "127.0.0.1:15021", "/ready").map(drop)
        })
        .with_context(|| self.tail())
    }

    /// GET on its admin port.
    pub fn admin(&self, path: &str) -> Result<String> {
        get(&self.namespace, "127.0.0.1:15000", path)
    }

    /// Its metrics.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::parse(&get(&self.namespace, "127.0.0.1:15020", "/metrics")?)
    }

    /// Lines of its access log.
    pub fn access_log(&self) -> Vec<serde_json::Value> {
        let log = self.process.log();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines
            .filter(|line| line.get("duration_ms").is_some())
            .collect()
    }

    fn tail(&self) -> String {
        let log = self.process.log();
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

fn readable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(
        path,
        std::fs::Permissions::from_mode(0o644),
    )?)
}

/// The root certificate where the proxies' user can read it.
fn share_root(mesh: &Path) -> Result<()> {
    let copy = mesh.join("root-cert.pem");
    std::fs::copy(mesh.join("control/ca/root-cert.pem"), &copy)
        .context("the control plane's root certificate")?;
    readable(&copy)
}
