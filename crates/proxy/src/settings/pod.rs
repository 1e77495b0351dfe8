//! The flags of a sidecar that was injected into a Pod: what the kubelet and Prometheus want of the application, and
//! how the Pod takes its leave.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use http::uri::PathAndQuery;
use tasuki_runtime::HookKey;

use super::parse_duration;
use crate::probe::Probes;

/// Flags of `tasuki-proxy sidecar` that the injector sets.
#[derive(Clone, Debug, Args)]
pub struct PodArgs {
    /// The Pod's own address, where probes, hooks and scrapes reach the application
    #[arg(long, env = "TASUKI_POD_IP", value_name = "ADDR")]
    pub pod_ip: Option<IpAddr>,
    /// Probes and hooks that the sidecar performs, by CONTAINER/KIND as Kubernetes writes them; needs --pod-ip
    #[arg(
        long,
        env = "TASUKI_PROBES",
        value_name = "JSON",
        default_value = "",
        hide_default_value = true
    )]
    pub probes: Probes,
    /// Where the application serves Prometheus; its metrics are merged into /metrics; needs --pod-ip
    #[arg(long, env = "TASUKI_APPLICATION_METRICS", value_name = ":PORT/PATH")]
    pub application_metrics: Option<ApplicationMetrics>,
    /// What a caller of a hook, /app/CONTAINER/prestop or poststart, must have in header tasuki-hook-key; without it there are no hooks
    #[arg(
        long,
        env = "TASUKI_HOOK_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    pub hook_key: Option<HookKey>,
    /// The longest that a preStop hook waits for the mesh to send no more to this Pod
    #[arg(long, env = "TASUKI_PRESTOP_LIMIT", value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub prestop_limit: Duration,
    /// The least that it waits when clients outside the mesh were served lately, which nobody can tell
    #[arg(long, env = "TASUKI_DRAIN_MINIMUM", value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub drain_minimum: Duration,
}

/// What an injected sidecar does for its Pod.
#[derive(Clone, Debug)]
pub struct PodSettings {
    pub ip: Option<IpAddr>,
    pub probes: Probes,
    pub application_metrics: Option<ApplicationMetrics>,
    pub hook_key: Option<HookKey>,
    pub prestop_limit: Duration,
    pub drain_minimum: Duration,
}

impl PodArgs {
    /// Flags that need each other are there.
    ///
    /// # Errors
    /// The flag that is missing.
    pub fn check(self) -> anyhow::Result<PodSettings> {
        if self.pod_ip.is_none() {
            anyhow::ensure!(
                self.probes.is_empty(),
                "--probes needs --pod-ip: where the application is probed"
            );
            anyhow::ensure!(
                self.application_metrics.is_none(),
                "--application-metrics needs --pod-ip: where the application is scraped"
            );
        }
        Ok(PodSettings {
            ip: self.pod_ip,
            probes: self.probes,
            application_metrics: self.application_metrics,
            hook_key: self.hook_key,
            prestop_limit: self.prestop_limit,
            drain_minimum: self.drain_minimum,
        })
    }
}

/// Nobody's: a gateway has no application beside it.
impl Default for PodSettings {
    fn default() -> Self {
        PodSettings {
            ip: None,
            probes: Probes::default(),
            application_metrics: None,
            hook_key: None,
            prestop_limit: Duration::from_secs(10),
            drain_minimum: Duration::from_secs(5),
        }
    }
}

/// `:PORT/PATH`, as in `:8080/metrics`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationMetrics {
    pub port: u16,
    pub path: PathAndQuery,
}

impl FromStr for ApplicationMetrics {
    type Err = String;

    fn from_str(text: &str) -> Result<ApplicationMetrics, String> {
        let wrong = || format!("`{text}` is not :PORT/PATH, for example :8080/metrics");
        let rest = text.strip_prefix(':').ok_or_else(wrong)?;
        let end = rest.find('/').ok_or_else(wrong)?;
        let port: u16 = rest[..end].parse().map_err(|_| wrong())?;
        if port == 0 {
            return Err(wrong());
        }
        Ok(ApplicationMetrics {
            port,
            path: rest[end..].parse().map_err(|_| wrong())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn application_metrics_have_a_port_and_a_path() {
        let parsed: ApplicationMetrics = ":8080/stats?format=prometheus".parse().unwrap();
        assert_eq!(parsed.port, 8080);
        assert_eq!(parsed.path, "/stats?format=prometheus");
        for wrong in [
            "8080/metrics",
            ":8080",
            ":/metrics",
            ":0/x",
            ":70000/x",
            ":80/a b",
        ] {
            let error = wrong.parse::<ApplicationMetrics>().unwrap_err();
            assert!(
                error.contains(wrong) && error.contains(":8080/metrics"),
                "{error}"
            );
        }
    }
}
