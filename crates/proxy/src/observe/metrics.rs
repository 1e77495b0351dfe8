//! Every metric that the proxy has, declared and registered in one place.

use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};
use tasuki_xds::model::cluster::ServiceRef;
use tasuki_xds::model::endpoint::WorkloadRef;

use super::peer::{Destination, Party, Peers};

/// Istio's labels of the two ends; Istio's standard metrics all begin with these.
const ENDS: [&str; 22] = [
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_canonical_service",
    "source_canonical_revision",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "destination_canonical_service",
    "destination_canonical_revision",
    "request_protocol",
    "connection_security_policy",
];

/// The number of labels that say who the two ends are.
pub const ENDS_LEN: usize = ENDS.len();

/// Envoy's buckets for milliseconds, thinned.
const MILLISECONDS: [f64; 16] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0,
    30_000.0, 60_000.0, 300_000.0,
];
const BYTES: [f64; 8] = [100.0, 1_000.0, 10_000.0, 100_000.0, 1e6, 1e7, 1e8, 1e9];

/// The proxy's metrics. One per process.
pub struct Metrics {
    registry: Registry,
    /// `istio_requests_total`: [`ENDS`], then code, flags, gRPC status.
    pub requests: IntCounterVec,
    pub duration: HistogramVec,
    pub request_bytes: HistogramVec,
    pub response_bytes: HistogramVec,
    /// `istio_tcp_*`: [`ENDS`], then flags.
    pub tcp_opened: IntCounterVec,
    pub tcp_closed: IntCounterVec,
    pub tcp_sent: IntCounterVec,
    pub tcp_received: IntCounterVec,
    pub access_log_dropped: IntCounter,
    pub label_sets_dropped: IntCounter,
    pub downstream_connections: IntGauge,
    pub downstream_accepted: IntCounter,
    pub retries: IntCounterVec,
    pub demands: IntCounterVec,
    pub control_connected: IntGauge,
    pub control_connects: IntCounter,
    pub resources: IntCounterVec,
    pub subscriptions: IntGauge,
    pub certificate_renewals: IntCounterVec,
    pub certificate_expiry: IntGauge,
    pub state_unsaved: IntGauge,
    pub state_write_failures: IntCounter,
    pub snapshot_generation: IntGauge,
    pub application_scrape_failures: IntCounter,
    pub peers: Peers,
    own: ArcSwap<Own>,
}

/// Who this proxy is.
#[derive(Default)]
struct Own {
    party: Arc<Party>,
    principal: Option<Arc<str>>,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When two metrics have one name, which a test excludes.
    pub fn new() -> prometheus::Result<Metrics> {
        let registry = tasuki_runtime::metrics::registry("proxy", env!("CARGO_PKG_VERSION"))?;
        let http = labels(&["response_code", "response_flags", "grpc_response_status"]);
        let tcp = labels(&["response_flags"]);
        let r = &registry;
        Ok(Metrics {
            requests: counters(
                r,
                "istio_requests_total",
                "Requests handled by the proxy.",
                &http,
            )?,
            duration: histograms(
                r,
                "istio_request_duration_milliseconds",
                "Time from the arrival of a request to its last byte, in milliseconds.",
                &http,
                &MILLISECONDS,
            )?,
            request_bytes: histograms(
                r,
                "istio_request_bytes",
                "Size of request bodies.",
                &http,
                &BYTES,
            )?,
            response_bytes: histograms(
                r,
                "istio_response_bytes",
                "Size of response bodies.",
                &http,
                &BYTES,
            )?,
            tcp_opened: counters(
                r,
                "istio_tcp_connections_opened_total",
                "TCP connections opened.",
                &tcp,
            )?,
            tcp_closed: counters(
                r,
                "istio_tcp_connections_closed_total",
                "TCP connections closed.",
                &tcp,
            )?,
            tcp_sent: counters(
                r,
                "istio_tcp_sent_bytes_total",
                "Bytes sent in answer on TCP connections.",
                &tcp,
            )?,
            tcp_received: counters(
                r,
                "istio_tcp_received_bytes_total",
                "Bytes received as requests on TCP connections.",
                &tcp,
            )?,
            access_log_dropped: counter(
                r,
                "tasuki_access_log_dropped_total",
                "Access log lines dropped because stdout was slower than the traffic.",
            )?,
            label_sets_dropped: counter(
                r,
                "tasuki_metric_label_sets_folded_total",
                "Times that traffic was counted without saying who, because too many peers were told apart already.",
            )?,
            downstream_connections: gauge(
                r,
                "tasuki_downstream_connections",
                "Open downstream connections.",
            )?,
            downstream_accepted: counter(
                r,
                "tasuki_downstream_connections_accepted_total",
                "Accepted downstream connections.",
            )?,
            retries: counters(
                r,
                "tasuki_retries_total",
                "Retries by cluster: made, or refused by the budget.",
                &["cluster", "outcome"],
            )?,
            demands: counters(
                r,
                "tasuki_demands_total",
                "Names asked for on demand, by outcome: asked, joined, found, unknown, limited, disconnected.",
                &["outcome"],
            )?,
            control_connected: gauge(
                r,
                "tasuki_control_connected",
                "1 while the stream to the control plane is open.",
            )?,
            control_connects: counter(
                r,
                "tasuki_control_connects_total",
                "Streams opened to the control plane.",
            )?,
            resources: counters(
                r,
                "tasuki_xds_resources_total",
                "Resources received, by type and outcome: accepted, removed, rejected.",
                &["type", "outcome"],
            )?,
            subscriptions: gauge(r, "tasuki_xds_subscriptions", "Names subscribed to.")?,
            certificate_renewals: counters(
                r,
                "tasuki_certificate_renewals_total",
                "Attempts to get a certificate, by outcome.",
                &["outcome"],
            )?,
            certificate_expiry: gauge(
                r,
                "tasuki_certificate_expiry_timestamp_seconds",
                "When the workload certificate expires.",
            )?,
            state_unsaved: gauge(
                r,
                "tasuki_state_unsaved_resources",
                "Resources that the state dir does not have in their present form yet.",
            )?,
            state_write_failures: counter(
                r,
                "tasuki_state_write_failures_total",
                "Resources and certificates that could not be written to the state dir; each is tried again.",
            )?,
            snapshot_generation: gauge(
                r,
                "tasuki_snapshot_generation",
                "Number of configurations applied since the start.",
            )?,
            application_scrape_failures: counter(
                r,
                "tasuki_application_scrape_failures_total",
                "Scrapes that had to do without the application's metrics.",
            )?,
            peers: Peers::default(),
            own: ArcSwap::from_pointee(Own::default()),
            registry,
        })
    }

    /// For metrics of other modules.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Says who this proxy is.
    pub fn set_own(&self, workload: &WorkloadRef, principal: Option<&str>) {
        let principal: Option<Arc<str>> = principal.map(Arc::from);
        let party = Arc::new(Party {
            workload: workload.clone(),
            principal: principal.clone(),
        });
        self.own.store(Arc::new(Own { party, principal }));
    }

    /// This proxy's own end.
    pub fn own(&self) -> Arc<Party> {
        Arc::clone(&self.own.load().party)
    }

    /// This proxy's own SPIFFE id.
    pub fn own_principal(&self) -> Option<Arc<str>> {
        self.own.load().principal.clone()
    }
}

/// The values of [`ENDS`].
pub fn end_labels(
    reporter: &'static str,
    source: &Party,
    destination: &Destination,
    protocol: &'static str,
    security: &'static str,
) -> [String; ENDS_LEN] {
    let (s, d) = (&source.workload, &destination.party.workload);
    let empty = ServiceRef {
        host: String::new(),
        name: String::new(),
        namespace: String::new(),
    };
    let service = destination.service.as_ref().unwrap_or(&empty);
    [
        reporter,
        &s.name,
        &s.namespace,
        source.principal.as_deref().unwrap_or_default(),
        &s.app,
        &s.version,
        &s.cluster,
        &s.canonical_service,
        &s.canonical_revision,
        &d.name,
        &d.namespace,
        destination.party.principal.as_deref().unwrap_or_default(),
        &d.app,
        &d.version,
        &service.host,
        &service.name,
        &service.namespace,
        &d.cluster,
        &d.canonical_service,
        &d.canonical_revision,
        protocol,
        security,
    ]
    .map(|value| {
        if value.is_empty() {
            "unknown".to_owned()
        } else {
            value.to_owned()
        }
    })
}

fn labels(more: &[&'static str]) -> Vec<&'static str> {
    ENDS.iter().chain(more).copied().collect()
}

fn counters(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counter(r: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    let metric = IntCounter::new(name, help)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauge(r: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let metric = IntGauge::new(name, help)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histograms(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> prometheus::Result<HistogramVec> {
    let metric = HistogramVec::new(
        HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        labels,
    )?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// promtool knows the rules better than we do; it is not everywhere.
    #[test]
    fn promtool_has_nothing_to_say_but_the_known() {
        let metrics = Metrics::new().unwrap();
        let ends = end_labels(
            "source",
            &Party::default(),
            &Destination::default(),
            "http",
            "mutual_tls",
        );
        let mut values: Vec<&str> = ends.iter().map(String::as_str).collect();
        metrics
            .tcp_opened
            .with_label_values(&[&values[..], &["-"]].concat())
            .inc();
        values.extend(["200", "-", "0"]);
        metrics.requests.with_label_values(&values).inc();
        metrics.duration.with_label_values(&values).observe(3.0);
        metrics
            .request_bytes
            .with_label_values(&values)
            .observe(3.0);
        let mut command = std::process::Command::new("promtool");
        command
            .args(["check", "metrics"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        let Ok(mut child) = command.stderr(std::process::Stdio::piped()).spawn() else {
            eprintln!("promtool is not here");
            return;
        };
        std::io::Write::write_all(
            &mut child.stdin.take().unwrap(),
            tasuki_runtime::metrics::expose(metrics.registry()).as_bytes(),
        )
        .unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        let new: Vec<&str> = said
            .lines()
            .filter(|l| !l.contains("istio_request_duration_milliseconds"))
            .collect();
        assert!(new.is_empty(), "{new:#?}");
    }
}
