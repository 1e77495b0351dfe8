//! What people and Prometheus ask on 15014: `/ready`, `/live`, `/metrics`, `/debug/clients`, `/debug/resources`. The last two
//! list everybody and everything, and are for this machine only; in a cluster `kubectl port-forward` comes from there.

use std::sync::Arc;

use http::StatusCode;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, IntGaugeVec, Opts, Registry};
use serde::Serialize;
use tasuki_resources::{Problem, Severity};
use tasuki_runtime::admin::{Response, Routes};
use tasuki_runtime::metrics::expose;

use crate::ads::Clients;
use crate::catalog::Published;
use crate::ending::Life;
use crate::mesh::Mesh;

/// The admin server's routes. Registers `tasuki_xds_clients`, which is counted when it is asked for.
///
/// # Errors
/// When the registry already has it.
pub fn routes(
    published: &Arc<Published>,
    clients: &Arc<Clients>,
    registry: &Registry,
    life: Life,
) -> prometheus::Result<Routes> {
    let connected = IntGauge::new("tasuki_xds_clients", "Clients that are connected now.")?;
    registry.register(Box::new(connected.clone()))?;
    let (resources, metrics_of) = (published.clone(), registry.clone());
    let (listed, counted) = (clients.clone(), clients.clone());
    let withholding = published.clone();
    let routes = Routes::new()
        // Everything is there before the port is open.
        .get("/ready", move |_| {
            let ready = life.is_ready();
            async move {
                match ready {
                    true => Response::text(StatusCode::OK, "ready\n"),
                    false => Response::text(StatusCode::SERVICE_UNAVAILABLE, "leaving\n"),
                }
            }
        })
        .get("/live", |_| async {
            Response::text(StatusCode::OK, "live\n")
        })
        .get("/metrics", move |_| {
            connected.set(i64::try_from(counted.len()).unwrap_or(i64::MAX));
            let registry = metrics_of.clone();
            async move { Response::metrics(expose(&registry)) }
        })
        .get_locally("/debug/clients", move |_| {
            let (clients, published) = (listed.clone(), withholding.clone());
            async move {
                Response::json(&clients.list(|client, names| published.withheld(client, names)))
            }
        })
        .get_locally("/debug/resources", move |_| {
            let published = resources.clone();
            async move { Response::json(&Resources::of(&published)) }
        });
    Ok(routes)
}

/// `/debug/resources`.
#[derive(Debug, Serialize)]
struct Resources {
    generation: u64,
    services: usize,
    workloads: usize,
    virtual_services: usize,
    gateways: usize,
    /// Errors first.
    problems: Vec<Line>,
}

/// One problem; the fields are those of `tasuki check`.
#[derive(Debug, Serialize)]
struct Line {
    severity: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    object: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    field: String,
    reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    expected: String,
}

impl Resources {
    fn of(published: &Published) -> Self {
        let mesh = published.mesh();
        let mut problems: Vec<&Problem> = mesh.problems.iter().collect();
        problems.sort_by_key(|problem| problem.severity);
        Self {
            generation: published.generation(),
            services: mesh.services.iter().count(),
            workloads: mesh.workloads.iter().count(),
            virtual_services: mesh.virtual_services.iter().count(),
            gateways: mesh.gateways.iter().count(),
            problems: problems.into_iter().map(Line::of).collect(),
        }
    }
}

impl Line {
    fn of(problem: &Problem) -> Self {
        Self {
            severity: severity(problem.severity),
            file: problem.file.clone(),
            line: problem.line,
            object: problem.object.clone(),
            field: problem.field.clone(),
            reason: problem.reason.clone(),
            expected: problem.expected.clone(),
        }
    }
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "info",
    }
}

/// What the control plane counts about resources.
pub struct Metrics {
    pub changes: IntCounter,
    pub build_seconds: Histogram,
    generation: IntGauge,
    problems: IntGaugeVec,
}

impl Metrics {
    /// # Errors
    /// When the registry already has one of them.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let buckets = prometheus::exponential_buckets(0.0005, 4.0, 8)?;
        let build = HistogramOpts::new(
            "tasuki_mesh_build_seconds",
            "Time to join all resources into a mesh.",
        );
        let problems = Opts::new(
            "tasuki_resource_problems",
            "Problems of the present resources, by severity.",
        );
        let metrics = Self {
            changes: IntCounter::new(
                "tasuki_resource_changes_total",
                "Changes of the watched resources.",
            )?,
            build_seconds: Histogram::with_opts(build.buckets(buckets))?,
            generation: IntGauge::new(
                "tasuki_mesh_generation",
                "Number of the mesh that is served.",
            )?,
            problems: IntGaugeVec::new(problems, &["severity"])?,
        };
        registry.register(Box::new(metrics.changes.clone()))?;
        registry.register(Box::new(metrics.build_seconds.clone()))?;
        registry.register(Box::new(metrics.generation.clone()))?;
        registry.register(Box::new(metrics.problems.clone()))?;
        Ok(metrics)
    }

    /// Says what is served now.
    pub fn describe(&self, mesh: &Mesh, generation: u64) {
        self.generation
            .set(i64::try_from(generation).unwrap_or(i64::MAX));
        for wanted in [Severity::Error, Severity::Warning, Severity::Info] {
            let count = mesh
                .problems
                .iter()
                .filter(|problem| problem.severity == wanted)
                .count();
            self.problems
                .with_label_values(&[severity(wanted)])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
