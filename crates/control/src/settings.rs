//! The command line of `tasuki-control` (contract section 1). Every flag is also a variable `TASUKI_...`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use tasuki_kubernetes::names;
use tasuki_resources::mesh_settings::OutboundTrafficPolicy;
use tasuki_runtime::parse_duration;

/// Tasuki's control plane: reads a folder of resources and serves them to proxies as xDS, with certificates.
#[derive(Clone, Debug, Parser)]
#[command(name = "tasuki-control", version, max_term_width = 110)]
pub struct Settings {
    /// Folder of Kubernetes-style YAML and JSON documents; a change is live within a second.
    #[arg(
        long,
        env = "TASUKI_CONFIG_DIR",
        value_name = "DIR",
        required_unless_present = "kubernetes",
        conflicts_with = "kubernetes"
    )]
    pub config_dir: Option<PathBuf>,

    /// Read the resources from a Kubernetes API server instead of a folder, and keep the certificate authority there.
    #[arg(long, env = "TASUKI_KUBERNETES")]
    pub kubernetes: bool,

    /// How to reach the API server. Without it: as the pod's service account, or as `kubectl` would.
    #[arg(long, env = "TASUKI_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Folder for what must outlive a restart: the certificate authority under `ca/`. Kubernetes keeps that in a Secret.
    #[arg(
        long,
        env = "TASUKI_STATE_DIR",
        value_name = "DIR",
        required_unless_present = "kubernetes"
    )]
    pub state_dir: Option<PathBuf>,

    /// Trust domain of all SPIFFE ids.
    #[arg(
        long,
        env = "TASUKI_TRUST_DOMAIN",
        value_name = "NAME",
        default_value = "cluster.local"
    )]
    pub trust_domain: String,

    /// Namespace whose policies and destination rules apply to the whole mesh. [default: istio-system; with --kubernetes tasuki-system]
    #[arg(long, env = "TASUKI_ROOT_NAMESPACE", value_name = "NAMESPACE")]
    pub root_namespace: Option<String>,

    /// Where xDS and the certificate service are served in plaintext. Loopback only unless allowed.
    #[arg(
        long,
        env = "TASUKI_XDS",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:15010"
    )]
    pub xds: SocketAddr,

    /// Let --xds be an address other machines can reach.
    #[arg(long, env = "TASUKI_ALLOW_PLAINTEXT_XDS")]
    pub allow_plaintext_xds: bool,

    /// Where xDS and the certificate service are served over TLS.
    #[arg(
        long,
        env = "TASUKI_XDS_TLS",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:15012"
    )]
    pub xds_tls: SocketAddr,

    /// A further DNS name or IP address in the server certificate of --xds-tls; may be repeated. localhost, 127.0.0.1, ::1 and the bound address are always there.
    #[arg(
        long,
        env = "TASUKI_XDS_TLS_NAME",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub xds_tls_name: Vec<String>,

    /// Where /metrics, /ready, /live, /debug/clients and /debug/resources are served; the last two to loopback addresses only.
    #[arg(
        long,
        env = "TASUKI_ADMIN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:15014"
    )]
    pub admin: SocketAddr,

    /// Where the webhooks for injection and validation are served over TLS. Kubernetes only.
    #[arg(
        long,
        env = "TASUKI_WEBHOOK",
        value_name = "ADDR:PORT",
        default_value = "0.0.0.0:15017"
    )]
    pub webhook: SocketAddr,

    /// The image of the sidecars that are injected, and of their init containers. Kubernetes only.
    #[arg(
        long,
        env = "TASUKI_PROXY_IMAGE",
        value_name = "IMAGE",
        default_value = concat!("tasuki-proxy:", env!("CARGO_PKG_VERSION"))
    )]
    pub proxy_image: String,

    /// Inject in namespaces with istio-injection=enabled too, where MeshSettings do not say. Kubernetes only.
    #[arg(long, env = "TASUKI_ISTIO_INJECTION_LABEL")]
    pub istio_injection_label: bool,

    /// After SIGTERM, for how long everything is still served while /ready says 503, so that nobody is sent here any more when it stops. [default: 0s; with --kubernetes 5s]
    #[arg(long, env = "TASUKI_DRAIN_DELAY", value_name = "TIME", value_parser = parse_duration)]
    pub drain_delay: Option<Duration>,

    /// How long a workload certificate is valid; proxies renew at half of it. A MeshSettings object comes before it.
    #[arg(long, env = "TASUKI_CERTIFICATE_TTL", value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    pub certificate_ttl: Duration,

    /// What sidecars do with destinations that nobody has declared. A MeshSettings object comes before it.
    #[arg(long, env = "TASUKI_OUTBOUND_TRAFFIC_POLICY", value_name = "POLICY", default_value = "allow-any", value_parser = outbound_traffic_policy())]
    pub outbound_traffic_policy: OutboundTrafficPolicy,
}

fn outbound_traffic_policy() -> impl TypedValueParser<Value = OutboundTrafficPolicy> {
    PossibleValuesParser::new([
        PossibleValue::new("allow-any")
            .help("Pass them through as bytes or HTTP to where the application meant"),
        PossibleValue::new("registry-only").help("Refuse them"),
    ])
    .map(|text| match text.as_str() {
        "registry-only" => OutboundTrafficPolicy::RegistryOnly,
        _ => OutboundTrafficPolicy::AllowAny,
    })
}

impl Settings {
    /// What clap cannot check field by field.
    ///
    /// # Errors
    /// One sentence that says which flag is wrong and what would be right.
    pub fn check(&self) -> Result<(), String> {
        if !self.allow_plaintext_xds && !is_loopback(self.xds.ip()) {
            return Err(format!(
                "--xds {} is reachable from other machines and has no TLS: use a loopback address, --xds-tls, or --allow-plaintext-xds",
                self.xds
            ));
        }
        if self.certificate_ttl < Duration::from_secs(1) {
            return Err("--certificate-ttl must be at least 1s".to_owned());
        }
        if self.kubeconfig.is_some() && !self.kubernetes {
            return Err("--kubeconfig is for --kubernetes".to_owned());
        }
        if let Some(dir) = self.config_dir.as_ref().filter(|dir| !dir.is_dir()) {
            return Err(format!("--config-dir {}: not a folder", dir.display()));
        }
        Ok(())
    }

    /// `--drain-delay`; without it, what a cluster needs to take an endpoint out of a Service, and nothing elsewhere.
    pub fn drain_delay(&self) -> Duration {
        let default = match self.kubernetes {
            true => Duration::from_secs(5),
            false => Duration::ZERO,
        };
        self.drain_delay.unwrap_or(default)
    }

    /// The namespace of `--root-namespace`, or where the control plane itself lives in either mode.
    pub fn root_namespace(&self) -> &str {
        let default = if self.kubernetes {
            names::SYSTEM_NAMESPACE
        } else {
            "istio-system"
        };
        self.root_namespace.as_deref().unwrap_or(default)
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Settings {
        let mut args = vec![
            "tasuki-control",
            "--config-dir",
            "/tmp",
            "--state-dir",
            "/tmp",
        ];
        args.extend(more);
        Settings::try_parse_from(args).unwrap()
    }

    #[test]
    fn defaults_are_the_contract() {
        let settings = parse(&[]);
        assert_eq!(settings.trust_domain, "cluster.local");
        assert_eq!(settings.root_namespace(), "istio-system");
        assert_eq!(settings.certificate_ttl, Duration::from_secs(24 * 3600));
        assert_eq!(settings.drain_delay(), Duration::ZERO);
        assert_eq!(settings.xds.port(), 15010);
        assert_eq!(settings.xds_tls.port(), 15012);
        assert_eq!(settings.admin.port(), 15014);
        assert_eq!(
            settings.outbound_traffic_policy,
            OutboundTrafficPolicy::AllowAny
        );
        assert_eq!(settings.check(), Ok(()));
    }

    #[test]
    fn a_folder_or_kubernetes() {
        let parse = |args: &[&str]| {
            Settings::try_parse_from([&["tasuki-control"], args].concat()).map_err(|e| e.kind())
        };
        let settings = parse(&["--kubernetes"]).unwrap();
        assert_eq!(settings.root_namespace(), "tasuki-system");
        assert_eq!(settings.drain_delay(), Duration::from_secs(5));
        assert_eq!(settings.webhook.to_string(), "0.0.0.0:15017");
        assert!(parse(&[]).is_err());
        assert!(parse(&["--kubernetes", "--config-dir", "/tmp"]).is_err());
        let folder = ["--config-dir", "/tmp", "--state-dir", "/tmp"];
        let neither = parse(&[&folder[..], &["--kubeconfig", "x"]].concat());
        assert!(neither.unwrap().check().is_err());
    }

    #[test]
    fn plaintext_stays_on_loopback_unless_allowed() {
        assert!(parse(&["--xds", "0.0.0.0:15010"]).check().is_err());
        assert_eq!(
            parse(&["--xds", "0.0.0.0:15010", "--allow-plaintext-xds"]).check(),
            Ok(())
        );
        assert_eq!(parse(&["--xds", "[::1]:0"]).check(), Ok(()));
    }
}
