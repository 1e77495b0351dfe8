//! The running shop: control plane, pods, applications, sidecars.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tasuki_testkit::binaries;
use tasuki_testkit::config::ConfigFolder;
use tasuki_testkit::mesh::{get, open_to_all, token};
use tasuki_testkit::metrics::Metrics;
use tasuki_testkit::namespace::{HUB_IP, Namespace, Network};
use tasuki_testkit::origin::{Kind, Origin};
use tasuki_testkit::process::{Launch, PROXY_UID, Process};
use tasuki_testkit::wait;

use super::shop::{CALLS, CallPlan, PODS, PodPlan};

const READY: Duration = Duration::from_secs(30);
/// Explicit listeners on loopback: outbound ones count up from here, inbound ones are the application's port above this.
const OUTBOUND_BASE: u16 = 21000;
const INBOUND_OFFSET: u16 = 10000;

/// What the pods stand on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// A network namespace for each pod, interception by iptables.
    Namespaces,
    /// 127.x addresses and explicit listeners.
    Loopback,
}

/// One pod of the shop.
pub struct Pod {
    // The sidecar ends before the application that it fronts.
    pub sidecar: Option<Process>,
    pub origin: Origin,
    pub plan: &'static PodPlan,
    pub namespace: Namespace,
}

/// All of it. Fields are dropped in order: pods, control plane, network, folder.
pub struct Stage {
    pub pods: Vec<Pod>,
    control: Process,
    network: Option<Network>,
    ground: Ground,
    pub config_dir: PathBuf,
    proxy: binaries::Shared,
    folder: tempfile::TempDir,
}

impl Stage {
    /// Starts everything and waits until each sidecar is ready.
    pub fn set(ground: Ground, config: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("tasuki-demo-").tempdir()?;
        open_to_all(folder.path())?;
        std::fs::create_dir(folder.path().join("logs"))?;
        let config = config
            .canonicalize()
            .with_context(|| format!("the example mesh {}", config.display()))?;
        let (network, config_dir) = match ground {
            Ground::Namespaces => (Some(Network::new()?), config),
            Ground::Loopback => (None, loopback_config(folder.path(), &config)?),
        };
        let control = start_control(network.as_ref(), &config_dir, folder.path())?;
        let mut stage = Self {
            pods: Vec::new(),
            control,
            network,
            ground,
            config_dir,
            proxy: binaries::shared("tasuki-proxy")?,
            folder,
        };
        stage.wait_for_control()?;
        for plan in PODS {
            let pod = stage
                .start_pod(plan)
                .with_context(|| format!("starting {}", plan.name))?;
            stage.pods.push(pod);
        }
        for pod in stage.pods.iter().filter(|pod| pod.plan.meshed) {
            let ready = || get(&pod.namespace, &stage.port_of(pod.plan, 15021), "/ready").map(drop);
            wait::until(
                &format!("the sidecar of {} is ready", pod.plan.name),
                READY,
                ready,
            )
            .with_context(|| stage.tail(pod.plan.name))?;
        }
        Ok(stage)
    }

    /// Where a port of the pod's own proxy is reached from inside the pod.
    pub fn port_of(&self, plan: &PodPlan, port: u16) -> String {
        match self.ground {
            Ground::Namespaces => format!("127.0.0.1:{port}"),
            Ground::Loopback => format!("{}:{port}", loopback(plan.ip)),
        }
    }

    /// The address a call is made to, by the caller's application.
    pub fn target_of(&self, index: usize, call: &CallPlan) -> SocketAddr {
        match self.ground {
            Ground::Namespaces => (call.address, call.port).into(),
            Ground::Loopback => {
                let caller = PODS
                    .iter()
                    .find(|pod| pod.name == call.caller)
                    .map_or(Ipv4Addr::LOCALHOST, |pod| loopback(pod.ip));
                (caller, OUTBOUND_BASE + index as u16).into()
            }
        }
    }

    pub fn pod(&self, name: &str) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.plan.name == name)
    }

    /// Metrics of a pod's sidecar.
    pub fn metrics(&self, name: &str) -> Result<Metrics> {
        let pod = self.pod(name).with_context(|| format!("no pod {name}"))?;
        Metrics::parse(&get(
            &pod.namespace,
            &self.port_of(pod.plan, 15020),
            "/metrics",
        )?)
    }

    /// What a pod's sidecar has logged.
    pub fn log(&self, name: &str) -> String {
        self.pod(name)
            .and_then(|pod| pod.sidecar.as_ref())
            .map(Process::log)
            .unwrap_or_default()
    }

    /// How to fetch a URL of the control plane by hand.
    pub fn control_command(&self, path: &str) -> String {
        match &self.network {
            Some(network) => format!(
                "sudo ip netns exec {} curl -s http://127.0.0.1:15014{path}",
                network.hub().name()
            ),
            None => format!("curl -s http://127.0.0.1:15014{path}"),
        }
    }

    /// How to fetch a URL of a pod's proxy by hand.
    pub fn pod_command(&self, pod: &Pod, port: u16, path: &str) -> String {
        let url = format!("http://{}{path}", self.port_of(pod.plan, port));
        match self.ground {
            Ground::Namespaces => {
                format!("sudo ip netns exec {} curl -s {url}", pod.namespace.name())
            }
            Ground::Loopback => format!("curl -s {url}"),
        }
    }

    /// Makes a pod's application fail this share of its calls.
    pub fn fail(&self, name: &str, percent: u32) {
        if let Some(pod) = self.pod(name) {
            pod.origin.controls.fail(percent, 503);
        }
    }

    /// Fails when a process has ended on its own.
    pub fn still_running(&self) -> Result<()> {
        for pod in &self.pods {
            if let Some(sidecar) = &pod.sidecar
                && !sidecar.is_running()
            {
                bail!(
                    "the sidecar of {} has ended: {}",
                    pod.plan.name,
                    self.tail(pod.plan.name)
                );
            }
        }
        if !self.control.is_running() {
            bail!(
                "the control plane has ended: {}",
                last_lines(&self.control.log())
            );
        }
        Ok(())
    }

    /// Names of the namespaces in use.
    pub fn namespaces(&self) -> Vec<String> {
        let names = self.pods.iter().map(|pod| pod.namespace.name().to_owned());
        names.filter(|name| !name.is_empty()).collect()
    }

    /// Ends everything, politely first.
    pub fn strike(mut self) {
        for pod in &mut self.pods {
            if let Some(sidecar) = &mut pod.sidecar {
                sidecar.signal(nix::sys::signal::Signal::SIGTERM);
            }
        }
        for pod in &mut self.pods {
            if let Some(sidecar) = &mut pod.sidecar {
                // Nobody calls any more, so there is nothing to drain for long.
                sidecar.stop(Duration::from_secs(3));
            }
        }
        self.control.stop(Duration::from_secs(3));
    }

    fn tail(&self, pod: &str) -> String {
        let path = self.folder.path().join("logs").join(format!("{pod}.log"));
        last_lines(&std::fs::read_to_string(path).unwrap_or_default())
    }

    fn wait_for_control(&mut self) -> Result<()> {
        let here = Namespace::own();
        let namespace = self.network.as_ref().map_or(&here, Network::hub);
        wait::until("the control plane is ready", READY, || {
            get(namespace, "127.0.0.1:15014", "/ready").map(drop)
        })
        .with_context(|| last_lines(&self.control.log()))
    }

    fn start_pod(&self, plan: &'static PodPlan) -> Result<Pod> {
        let [_, _, high, low] = plan.ip.octets();
        let namespace = match &self.network {
            None => Namespace::own_at(loopback(plan.ip)),
            Some(network) if plan.meshed => {
                network.pod_at(plan.name, u16::from_be_bytes([high, low]))?
            }
            Some(network) => network.outsider(plan.name, low)?,
        };
        let address = match self.ground {
            Ground::Namespaces => Ipv4Addr::UNSPECIFIED,
            Ground::Loopback => loopback(plan.ip),
        };
        let origin = Origin::start(
            &namespace,
            plan.name,
            (address, plan.port).into(),
            Kind::Http,
        )?;
        let sidecar = plan
            .meshed
            .then(|| self.start_sidecar(plan, &namespace))
            .transpose()?;
        Ok(Pod {
            sidecar,
            origin,
            plan,
            namespace,
        })
    }

    fn start_sidecar(&self, plan: &PodPlan, namespace: &Namespace) -> Result<Process> {
        let program = &self.proxy;
        let folder = self.folder.path();
        let state = folder.join(format!("proxy-{}", plan.name));
        std::fs::create_dir_all(&state)?;
        open_to_all(&state)?;
        let token_file = folder.join(format!("token-{}", plan.name));
        std::fs::write(
            &token_file,
            token(&folder.join("control"), "shop", plan.account, "24h")?,
        )?;
        readable(&token_file)?;
        let root = folder.join("root-cert.pem");
        std::fs::copy(folder.join("control/ca/root-cert.pem"), &root)?;
        readable(&root)?;
        let mut args = vec![
            "sidecar".to_owned(),
            format!("--control=https://{}:15012", self.control_ip()),
            format!("--control-ca={}", root.display()),
            format!("--pod=shop/{}", plan.name),
            format!("--token-file={}", token_file.display()),
            format!("--state-dir={}", state.display()),
            "--workers=1".to_owned(),
            "--access-log=errors".to_owned(),
        ];
        match self.ground {
            Ground::Namespaces => {
                let proxy = program.display().to_string();
                namespace
                    .command(&proxy, &["redirect", "install"])
                    .context("tasuki-proxy redirect install")?;
            }
            Ground::Loopback => args.extend(loopback_args(plan)),
        }
        Process::start(Launch {
            namespace,
            program,
            args,
            env: Vec::new(),
            uid: (self.ground == Ground::Namespaces).then_some(PROXY_UID),
            name: plan.name.to_owned(),
            log_dir: &folder.join("logs"),
        })
    }

    fn control_ip(&self) -> Ipv4Addr {
        control_ip(self.network.as_ref())
    }
}

fn control_ip(network: Option<&Network>) -> Ipv4Addr {
    network.map_or(Ipv4Addr::LOCALHOST, |_| HUB_IP)
}

fn start_control(network: Option<&Network>, config: &Path, folder: &Path) -> Result<Process> {
    let ip = control_ip(network);
    let here = Namespace::own();
    Process::start(Launch {
        namespace: network.map_or(&here, Network::hub),
        program: &binaries::find("tasuki-control")?,
        args: vec![
            format!("--config-dir={}", config.display()),
            format!("--state-dir={}", folder.join("control").display()),
            "--xds=127.0.0.1:15010".to_owned(),
            format!("--xds-tls={ip}:15012"),
            format!("--xds-tls-name={ip}"),
            "--admin=127.0.0.1:15014".to_owned(),
        ],
        env: Vec::new(),
        uid: None,
        name: "control".to_owned(),
        log_dir: &folder.join("logs"),
    })
}

/// The loopback twin of a pod's address.
fn loopback(ip: Ipv4Addr) -> Ipv4Addr {
    let [_, b, c, d] = ip.octets();
    Ipv4Addr::new(127, b, c, d)
}

/// The example mesh with its pods on loopback addresses; Services lead to the explicit inbound listeners.
fn loopback_config(folder: &Path, config: &Path) -> Result<PathBuf> {
    let copy = ConfigFolder::create(folder)?;
    for entry in std::fs::read_dir(config)? {
        let path = entry?.path();
        let (Some(stem), true) = (
            path.file_stem().and_then(|stem| stem.to_str()),
            path.is_file(),
        ) else {
            continue;
        };
        let mut text = std::fs::read_to_string(&path)?
            .replace("10.244.", "127.244.")
            .replace("203.0.113.", "127.0.113.");
        if stem == "services" {
            for port in [8080, 9000] {
                text = text.replace(
                    &format!("targetPort: {port}"),
                    &format!("targetPort: {}", port + INBOUND_OFFSET),
                );
            }
        }
        copy.apply(stem, &text)?;
    }
    Ok(copy.path().to_owned())
}

/// The flags that replace interception.
fn loopback_args(plan: &PodPlan) -> Vec<String> {
    let ip = loopback(plan.ip);
    let mut args: Vec<String> = [
        ("outbound", 15001),
        ("inbound", 15006),
        ("admin", 15000),
        ("metrics", 15020),
        ("health", 15021),
    ]
    .iter()
    .map(|(name, port)| format!("--{name}={ip}:{port}"))
    .collect();
    args.push(format!(
        "--inbound-listen={ip}:{}={}",
        plan.port + INBOUND_OFFSET,
        plan.port
    ));
    for (index, call) in CALLS
        .iter()
        .enumerate()
        .filter(|(_, call)| call.caller == plan.name)
    {
        args.push(format!(
            "--listen={ip}:{}={}:{}",
            OUTBOUND_BASE + index as u16,
            call.host,
            call.port
        ));
    }
    args
}

fn readable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(
        path,
        std::fs::Permissions::from_mode(0o644),
    )?)
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().rev().take(15).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
