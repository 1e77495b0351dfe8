//! Network namespaces as pods: a hub with a bridge, and namespaces on it by veth, each with an IPv4 and
//! an IPv6 address and a default route through the hub.
//!
//! Every network is a world of its own, so all tests use the same addresses. Names carry the process
//! id, and [`sweep`] removes what a killed run left behind. Service addresses have no route on the hub:
//! they are reached through interception or not at all (and fail at once, not by timeout).

use std::fs::File;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

/// The hub's address: default gateway of the pods, and where a control plane listens.
pub const HUB_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The bridge's own address. Without one it takes the lowest of its ports', so that a new pod may change it and what others send
/// to the hub is lost until their neighbour entries are probed again.
const BRIDGE_MAC: &str = "02:00:00:00:00:01";
/// The hub's address on the network outside the mesh.
pub const OUTSIDE_GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const HUB_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 1);

/// Why namespaces cannot be made here; `None` if they can.
pub fn unavailable() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    for program in ["ip", "iptables-restore", "ip6tables-restore"] {
        if crate::require::program(program).is_none() {
            return Some(format!("{program} is not installed"));
        }
    }
    let name = format!(
        "tasuki-{}-probe-{:x}",
        std::process::id(),
        rand::random::<u32>()
    );
    if let Err(error) = ip(&["netns", "add", &name]) {
        return Some(format!("network namespaces cannot be made: {error:#}"));
    }
    let _ = ip(&["netns", "del", &name]);
    None
}

/// A hub and the namespaces attached to it. Removed, with every process inside, on drop.
pub struct Network {
    hub: Namespace,
    prefix: String,
    next_host: AtomicU32,
    members: Mutex<Vec<String>>,
}

/// One network namespace. Cheap to clone; it is removed by its [`Network`].
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    /// Main IPv4 address.
    pub ip: Ipv4Addr,
    /// Main IPv6 address; unspecified outside the mesh.
    pub ip6: Ipv6Addr,
}

impl Network {
    /// A hub without members.
    pub fn new() -> Result<Self> {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let prefix = format!(
            "tasuki-{}-{:04x}",
            std::process::id(),
            rand::random::<u16>()
        );
        let hub = Namespace {
            name: format!("{prefix}-hub"),
            ip: HUB_IP,
            ip6: HUB_IP6,
        };
        let network = Self {
            hub,
            prefix,
            next_host: AtomicU32::new(10),
            members: Mutex::default(),
        };
        network.create(&network.hub.name)?;
        ip_batch(
            &network.hub.name,
            &format!(
                "link set lo up\nlink add br0 address {BRIDGE_MAC} type bridge\nlink set br0 up\n\
                 address add {HUB_IP}/16 dev br0\naddress add {OUTSIDE_GATEWAY}/24 dev br0\n\
                 address add {HUB_IP6}/64 dev br0 nodad\n"
            ),
        )?;
        // With forwarding on, an address without a route is answered with "unreachable" instead of silence.
        network.hub.run(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
            std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0")?;
            anyhow::Ok(())
        })??;
        Ok(network)
    }

    /// The namespace of the bridge, where the control plane lives.
    pub fn hub(&self) -> &Namespace {
        &self.hub
    }

    /// A new pod namespace; `name` must be unique within the network.
    pub fn pod(&self, name: &str) -> Result<Namespace> {
        let host = self.next_host.fetch_add(1, Ordering::Relaxed);
        self.pod_at(name, u16::try_from(host).context("too many pods")?)
    }

    /// A new pod namespace whose address ends in the two bytes of `host`.
    pub fn pod_at(&self, name: &str, host: u16) -> Result<Namespace> {
        let [high, low] = host.to_be_bytes();
        let ip = Ipv4Addr::new(10, 244, high, low);
        let ip6 = Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, host);
        self.attach(name, ip, 16, HUB_IP, ip6)
    }

    /// A new namespace outside the mesh's network, `203.0.113.LAST`: the internet, as far as the pods can tell.
    pub fn outsider(&self, name: &str, last: u8) -> Result<Namespace> {
        self.attach(
            name,
            Ipv4Addr::new(203, 0, 113, last),
            24,
            OUTSIDE_GATEWAY,
            Ipv6Addr::UNSPECIFIED,
        )
    }

    fn create(&self, name: &str) -> Result<()> {
        ip(&["netns", "add", name])?;
        self.members
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .push(name.to_owned());
        Ok(())
    }

    fn attach(
        &self,
        pod: &str,
        addr: Ipv4Addr,
        bits: u8,
        gateway: Ipv4Addr,
        ip6: Ipv6Addr,
    ) -> Result<Namespace> {
        let namespace = Namespace {
            name: format!("{}-{pod}", self.prefix),
            ip: addr,
            ip6,
        };
        self.create(&namespace.name)?;
        // No duplicate address detection: addresses are usable at once.
        namespace.run(|| std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0"))??;
        let port = format!("p{:x}", u32::from(addr));
        let name = &namespace.name;
        ip_batch(
            &self.hub.name,
            &format!(
                "link add {port} type veth peer name eth0 netns {name}\nlink set {port} master br0\nlink set {port} up\n"
            ),
        )?;
        let mut script = format!(
            "link set lo up\nlink set eth0 up\naddress add {addr}/{bits} dev eth0\nroute add default via {gateway}\n"
        );
        if !ip6.is_unspecified() {
            script.push_str(&format!(
                "address add {ip6}/64 dev eth0 nodad\nroute add default via {HUB_IP6}\n"
            ));
        }
        ip_batch(name, &script)?;
        Ok(namespace)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let members = std::mem::take(&mut *self.members.lock().unwrap_or_else(|e| e.into_inner()));
        for name in members.iter().rev() {
            remove(name);
        }
    }
}

impl Namespace {
    /// The machine's own namespace, for tests and the demo without root: everything runs where we are.
    pub fn own() -> Self {
        Self {
            name: String::new(),
            ip: Ipv4Addr::LOCALHOST,
            ip6: Ipv6Addr::LOCALHOST,
        }
    }

    /// The machine's own namespace, as the home of a pod on a loopback address.
    pub fn own_at(ip: Ipv4Addr) -> Self {
        Self { ip, ..Self::own() }
    }

    /// The one that a process is in, whoever made it; `ip` is its address.
    pub fn of_process(pid: u32, ip: Ipv4Addr) -> Self {
        Self {
            name: format!("/proc/{pid}/ns/net"),
            ip,
            ip6: Ipv6Addr::UNSPECIFIED,
        }
    }

    /// Name as `ip netns` knows it; empty for [`Namespace::own`], a path for [`Namespace::of_process`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves the calling thread into the namespace, for good. Threads and processes it starts are born there.
    pub fn enter(&self) -> Result<()> {
        if self.name.is_empty() {
            return Ok(());
        }
        // What is a path already is joined to nothing.
        let file = File::open(Path::new("/run/netns").join(&self.name))
            .with_context(|| format!("namespace {}", self.name))?;
        setns(file, CloneFlags::CLONE_NEWNET).context("entering a network namespace")
    }

    /// Runs `work` on a thread inside the namespace and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                anyhow::Ok(work())
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs `work` on a reactor inside the namespace and waits for it.
    pub fn block_on<T: Send, F: Future<Output = T>>(
        &self,
        work: impl FnOnce() -> F + Send,
    ) -> Result<T> {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            anyhow::Ok(runtime.block_on(work()))
        })?
    }

    /// Starts `work` on a thread inside the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<Result<T>> {
        let namespace = self.clone();
        std::thread::spawn(move || {
            namespace.enter()?;
            Ok(work())
        })
    }

    /// Runs a program to its end inside the namespace; fails with its output unless it exits with 0.
    pub fn command(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self.run(|| {
            Command::new(program)
                .args(args)
                .stdin(Stdio::null())
                .output()
        })??;
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        if !output.status.success() {
            bail!("{program} {}: {}: {text}", args.join(" "), output.status);
        }
        Ok(text)
    }
}

/// Removes the namespaces (and kills the processes in them) of runs whose process is gone.
pub fn sweep() {
    crate::binaries::sweep();
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix("tasuki-")
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove(&name);
        }
    }
}

fn remove(name: &str) {
    if let Ok(pids) = ip(&["netns", "pids", name]) {
        for pid in pids
            .split_whitespace()
            .filter_map(|pid| pid.parse::<i32>().ok())
        {
            if pid as u32 != std::process::id() {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
    }
    let _ = ip(&["netns", "del", name]);
}

fn ip(args: &[&str]) -> Result<String> {
    let output = Command::new("ip")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .context("running ip")?;
    if !output.status.success() {
        bail!(
            "ip {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn ip_batch(namespace: &str, script: &str) -> Result<()> {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(script.as_bytes())?;
    let path = file.path().to_str().context("temporary path")?;
    // IPv6 routes need `-6`, which `-batch` infers from the address where there is one.
    ip(&["-n", namespace, "-batch", path])
        .map(drop)
        .with_context(|| format!("in {namespace}: {script}"))
}

#[cfg(test)]
mod tests;
