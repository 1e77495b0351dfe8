//! The command line: every flag is also an environment variable `TASUKI_...` (contract section 1).
//!
//! Parsed once into [`Settings`], which every worker shares. Nothing below this file reads the environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{redirect, wait};

mod pod;

pub use self::pod::{ApplicationMetrics, PodArgs, PodSettings};

/// `tasuki-proxy`: the data plane of the Tasuki service mesh.
#[derive(Debug, Parser)]
#[command(name = "tasuki-proxy", version, about, long_about = None)]
pub struct CommandLine {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs beside one application and carries its traffic in both directions
    Sidecar(Box<SidecarArgs>),
    /// Runs on its own and binds what a Gateway resource says
    Gateway(GatewayArgs),
    /// Installs, removes or prints the packet rules that lead an application's traffic through the sidecar
    Redirect(redirect::RedirectArgs),
    /// Waits until the sidecar of the same pod is ready
    Wait(wait::WaitArgs),
}

/// Flags of `tasuki-proxy sidecar`.
#[derive(Debug, Args)]
pub struct SidecarArgs {
    /// The Pod beside which this proxy runs
    #[arg(long, env = "TASUKI_POD", value_name = "NAMESPACE/NAME")]
    pub pod: ObjectName,
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub intercepted: InterceptedArgs,
    #[command(flatten)]
    pub in_pod: PodArgs,
    /// Explicit outbound listener that leads to HOST:PORT without interception; may be repeated
    #[arg(
        long,
        env = "TASUKI_LISTEN",
        value_name = "ADDR:PORT=HOST:PORT",
        value_delimiter = ','
    )]
    pub listen: Vec<Listen>,
    /// Explicit inbound listener for the application's PORT, without interception; may be repeated
    #[arg(
        long,
        env = "TASUKI_INBOUND_LISTEN",
        value_name = "ADDR:PORT=PORT",
        value_delimiter = ','
    )]
    pub inbound_listen: Vec<InboundListen>,
}

/// Where intercepted connections arrive: the sidecar listens there, and the packet rules lead there.
#[derive(Clone, Debug, Args)]
pub struct InterceptedArgs {
    /// Where redirected outbound connections arrive; an IPv6 address covers IPv6 too
    #[arg(
        long,
        env = "TASUKI_OUTBOUND",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:15001"
    )]
    pub outbound: SocketAddr,
    /// Where redirected inbound connections arrive; with an IPv6 address IPv6 is redirected, otherwise dropped
    #[arg(
        long,
        env = "TASUKI_INBOUND",
        value_name = "ADDR:PORT",
        default_value = "0.0.0.0:15006"
    )]
    pub inbound: SocketAddr,
}

/// Flags of `tasuki-proxy gateway`.
#[derive(Debug, Args)]
pub struct GatewayArgs {
    /// The Gateway resource whose servers are bound, whatever its selector says
    #[arg(long, env = "TASUKI_GATEWAY", value_name = "NAMESPACE/NAME")]
    pub gateway: ObjectName,
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Flags of both roles.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// The control plane: http://HOST:15010 (plaintext) or https://HOST:15012
    #[arg(long, env = "TASUKI_CONTROL", value_name = "URL")]
    pub control: String,
    /// Root certificate (PEM) by which an https control plane is verified [default: the trust bundle kept in the state dir]
    #[arg(long, env = "TASUKI_CONTROL_CA", value_name = "FILE")]
    pub control_ca: Option<PathBuf>,
    /// The join token, read again for each use
    #[arg(long, env = "TASUKI_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Where the last accepted configuration and the certificate are kept
    #[arg(long, env = "TASUKI_STATE_DIR", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Admin endpoints; loopback only unless you know better
    #[arg(
        long,
        env = "TASUKI_ADMIN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:15000"
    )]
    pub admin: SocketAddr,
    /// Prometheus metrics, /metrics
    #[arg(
        long,
        env = "TASUKI_METRICS",
        value_name = "ADDR:PORT",
        default_value = "0.0.0.0:15020"
    )]
    pub metrics: SocketAddr,
    /// Readiness for the kubelet, /ready
    #[arg(
        long,
        env = "TASUKI_HEALTH",
        value_name = "ADDR:PORT",
        default_value = "0.0.0.0:15021"
    )]
    pub health: SocketAddr,
    /// Worker threads [default: the CPU limit, for a sidecar at most 2]
    #[arg(long, env = "TASUKI_WORKERS", value_name = "N")]
    pub workers: Option<usize>,
    /// How long open connections may finish after SIGTERM, for example 30s or 2m
    #[arg(long, env = "TASUKI_DRAIN_TIME", value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub drain_time: Duration,
    /// Which requests are written to stdout as JSON lines [default: as the mesh's settings say, else errors]
    #[arg(long, env = "TASUKI_ACCESS_LOG", value_name = "WHICH")]
    pub access_log: Option<AccessLogMode>,
    /// Say in `x-tasuki-reason` why the proxy itself answered
    #[arg(long, env = "TASUKI_REASON_HEADER")]
    pub reason_header: bool,
    /// What becomes of a name never seen before while the control plane is away
    #[arg(
        long,
        env = "TASUKI_UNKNOWN_WHEN_DISCONNECTED",
        value_name = "WHAT",
        default_value = "refuse"
    )]
    pub unknown_when_disconnected: UnknownPolicy,
    /// Log filter, for example info or tasuki_proxy=debug
    #[arg(
        long,
        env = "TASUKI_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log: String,
}

/// Which requests the access log has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AccessLogMode {
    Off,
    /// Status 5xx, a gRPC status other than OK, or any response flag.
    #[default]
    Errors,
    All,
}

/// What becomes of an unknown name while disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnknownPolicy {
    /// 503 with flag `NC` after one second.
    Refuse,
    /// Pass through to the original destination.
    Allow,
}

/// `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

/// `ADDR:PORT=HOST:PORT`: an explicit outbound listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Listen {
    pub address: SocketAddr,
    /// As the user wrote it, lower case; may be an IP address.
    pub host: String,
    pub port: u16,
}

/// `ADDR:PORT=PORT`: an explicit inbound listener for the application's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InboundListen {
    pub address: SocketAddr,
    pub port: u16,
}

/// Whose proxy this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    Sidecar { pod: ObjectName },
    Gateway { gateway: ObjectName },
}

/// What the flags said; shared by all threads.
#[derive(Clone, Debug)]
pub struct Settings {
    pub role: Role,
    pub control: String,
    pub control_ca: Option<PathBuf>,
    pub token_file: Option<PathBuf>,
    pub state_dir: PathBuf,
    /// `None` for a gateway.
    pub outbound: Option<SocketAddr>,
    /// `None` for a gateway.
    pub inbound: Option<SocketAddr>,
    pub admin: SocketAddr,
    pub metrics: SocketAddr,
    pub health: SocketAddr,
    /// At least 1.
    pub workers: usize,
    pub drain_time: Duration,
    /// `None`: as the mesh's settings say.
    pub access_log: Option<AccessLogMode>,
    pub reason_header: bool,
    pub unknown_when_disconnected: UnknownPolicy,
    pub listen: Vec<Listen>,
    pub inbound_listen: Vec<InboundListen>,
    pub in_pod: PodSettings,
    pub log: String,
}

impl Settings {
    /// The settings of a sidecar.
    ///
    /// # Errors
    /// Flags that need others which are missing.
    pub fn sidecar(args: SidecarArgs) -> anyhow::Result<Settings> {
        let mut settings = Settings::common(Role::Sidecar { pod: args.pod }, args.common, 2);
        settings.outbound = Some(args.intercepted.outbound);
        settings.inbound = Some(args.intercepted.inbound);
        settings.listen = args.listen;
        settings.inbound_listen = args.inbound_listen;
        settings.in_pod = args.in_pod.check()?;
        Ok(settings)
    }

    /// The settings of a gateway.
    pub fn gateway(args: GatewayArgs) -> Settings {
        Settings::common(
            Role::Gateway {
                gateway: args.gateway,
            },
            args.common,
            usize::MAX,
        )
    }

    fn common(role: Role, args: CommonArgs, most_workers: usize) -> Settings {
        // `available_parallelism` honours the cgroup's CPU limit and the affinity mask.
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Settings {
            role,
            control: args.control,
            control_ca: args.control_ca,
            token_file: args.token_file,
            state_dir: args.state_dir,
            outbound: None,
            inbound: None,
            admin: args.admin,
            metrics: args.metrics,
            health: args.health,
            workers: args.workers.unwrap_or(cpus.min(most_workers)).max(1),
            drain_time: args.drain_time,
            access_log: args.access_log,
            reason_header: args.reason_header,
            unknown_when_disconnected: args.unknown_when_disconnected,
            listen: Vec::new(),
            inbound_listen: Vec::new(),
            in_pod: PodSettings::default(),
            log: args.log,
        }
    }

    /// Ports on which this proxy itself listens: no leg may dial them on a local address (contract section 5).
    pub fn own_ports(&self) -> Vec<u16> {
        let mut ports = vec![self.admin.port(), self.metrics.port(), self.health.port()];
        ports.extend(
            self.outbound
                .iter()
                .chain(&self.inbound)
                .map(SocketAddr::port),
        );
        ports.extend(self.listen.iter().map(|l| l.address.port()));
        ports.extend(self.inbound_listen.iter().map(|l| l.address.port()));
        ports
    }
}

impl FromStr for ObjectName {
    type Err = String;

    fn from_str(text: &str) -> Result<ObjectName, String> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(ObjectName {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
            _ => Err(format!("`{text}` is not NAMESPACE/NAME")),
        }
    }
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        let wrong = || format!("`{text}` is not ADDR:PORT=HOST:PORT");
        let (address, target) = text.split_once('=').ok_or_else(wrong)?;
        let (host, port) = target.rsplit_once(':').ok_or_else(wrong)?;
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .trim_end_matches('.')
            .to_ascii_lowercase();
        if host.is_empty() {
            return Err(wrong());
        }
        Ok(Listen {
            address: address.parse().map_err(|_| wrong())?,
            host,
            port: port.parse().map_err(|_| wrong())?,
        })
    }
}

impl FromStr for InboundListen {
    type Err = String;

    fn from_str(text: &str) -> Result<InboundListen, String> {
        let wrong = || format!("`{text}` is not ADDR:PORT=PORT");
        let (address, port) = text.split_once('=').ok_or_else(wrong)?;
        Ok(InboundListen {
            address: address.parse().map_err(|_| wrong())?,
            port: port.parse().map_err(|_| wrong())?,
        })
    }
}

/// `30s`, `2m`, `1h`, `10ms`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let wrong = || format!("`{text}` is not a duration like 30s, 2m or 500ms");
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(unit_ms)
        .map(Duration::from_millis)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_explicit_listeners() {
        let listen: Listen = "127.0.0.1:8001=Cart.Shop.svc.cluster.local.:8080"
            .parse()
            .unwrap();
        assert_eq!(listen.host, "cart.shop.svc.cluster.local");
        assert_eq!((listen.address.port(), listen.port), (8001, 8080));
        assert!("8001=cart:80".parse::<Listen>().is_err());
        let inbound: InboundListen = "127.0.0.1:9000=8080".parse().unwrap();
        assert_eq!((inbound.address.port(), inbound.port), (9000, 8080));
    }

    #[test]
    fn flags_have_the_defaults_of_the_contract() {
        let line = CommandLine::try_parse_from([
            "tasuki-proxy",
            "sidecar",
            "--control",
            "http://127.0.0.1:15010",
            "--pod",
            "shop/cart-1",
            "--state-dir",
            "/tmp/x",
            "--workers",
            "3",
        ])
        .unwrap();
        let Command::Sidecar(args) = line.command else {
            panic!("not a sidecar")
        };
        let settings = Settings::sidecar(*args).unwrap();
        assert_eq!(settings.outbound, Some("127.0.0.1:15001".parse().unwrap()));
        assert_eq!(settings.drain_time, Duration::from_secs(30));
        assert_eq!(settings.unknown_when_disconnected, UnknownPolicy::Refuse);
        assert_eq!(settings.workers, 3);
        assert!(settings.own_ports().contains(&15006));
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(parse_duration("30").is_err());
    }
}
