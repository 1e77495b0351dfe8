//! Metrics of the clusters in use, read at scrape time from what the request path counts anyway.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};

use crate::state::State;

/// Reads the snapshot's clusters.
pub struct Clusters {
    state: Arc<State>,
    ejections: IntCounterVec,
    endpoints: IntGaugeVec,
    overflows: prometheus::IntCounter,
}

impl Clusters {
    /// To be registered once.
    ///
    /// # Errors
    /// Never: the names are valid.
    pub fn new(state: Arc<State>) -> prometheus::Result<Clusters> {
        Ok(Clusters {
            state,
            ejections: IntCounterVec::new(
                Opts::new("tasuki_ejections_total", "Endpoints ejected, by cluster."),
                &["cluster"],
            )?,
            endpoints: IntGaugeVec::new(
                Opts::new(
                    "tasuki_cluster_endpoints",
                    "Endpoints by cluster and state: in, ejected, unreachable.",
                ),
                &["cluster", "state"],
            )?,
            overflows: prometheus::IntCounter::new(
                "tasuki_demand_overflows_total",
                "Names counted as unknown because too many were asked for.",
            )?,
        })
    }

    fn refresh(&self) {
        self.ejections.reset();
        self.endpoints.reset();
        for cluster in self.state.snapshot().clusters.values() {
            let now = cluster.now();
            let endpoints = cluster.endpoints();
            let ejected = endpoints.all().filter(|e| e.ejection.is_out(now)).count();
            let unreachable = endpoints
                .all()
                .filter(|e| e.reach.is_out() && !e.ejection.is_out(now))
                .count();
            let set = |state, count: usize| {
                self.endpoints
                    .with_label_values(&[cluster.name(), state])
                    .set(count as i64);
            };
            set("in", endpoints.len().saturating_sub(ejected + unreachable));
            set("ejected", ejected);
            set("unreachable", unreachable);
            self.ejections
                .with_label_values(&[cluster.name()])
                .inc_by(cluster.ejections());
        }
        self.overflows.reset();
        self.overflows.inc_by(self.state.counters.overflows());
    }
}

impl Collector for Clusters {
    fn desc(&self) -> Vec<&Desc> {
        [
            self.ejections.desc(),
            self.endpoints.desc(),
            self.overflows.desc(),
        ]
        .concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        [
            self.ejections.collect(),
            self.endpoints.collect(),
            self.overflows.collect(),
        ]
        .concat()
    }
}
