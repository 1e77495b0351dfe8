//! What people and programs may ask the proxy: the admin endpoints (loopback), the scrape and the readiness.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tasuki_runtime::admin::{Response, Routes};
use tasuki_runtime::{logging, metrics as exposition};

use crate::application::Application;
use crate::departure::Leave;
use crate::drain::Drain;
use crate::observe::Metrics;
use crate::probe::Prober;
use crate::settings::{Role, Settings};
use crate::state::State;

mod dump;
mod merge;
mod pod;
mod scrape;

use self::merge::Merged;
pub use self::pod::LIMITS as HEALTH_LIMITS;

/// Between two expositions: what strangers cost who ask without end.
const SCRAPE_PAUSE: Duration = Duration::from_millis(100);

/// What the handlers can reach.
#[derive(Clone)]
pub struct Admin {
    pub settings: Arc<Settings>,
    pub state: Arc<State>,
    pub metrics: Arc<Metrics>,
    pub drain: Drain,
    pub prober: Prober,
    pub leave: Leave,
    /// What a sidecar was injected beside.
    pub application: Option<Application>,
}

impl Admin {
    /// 15000: everything.
    pub fn routes(&self) -> Routes {
        let routes = self.health_routes().guard_reads();
        let routes = self.get(routes, "/metrics", |admin| {
            Response::metrics(exposition::expose(admin.metrics.registry()))
        });
        let routes = self.get(routes, "/config_dump", |admin| {
            Response::json(&dump::config(&admin.state.snapshot()))
        });
        let routes = self.get(routes, "/clusters", |admin| {
            Response::json(&dump::clusters(&admin.state.snapshot()))
        });
        let routes = self.get(routes, "/listeners", |admin| {
            Response::json(&dump::listeners(&admin.settings, &admin.state.snapshot()))
        });
        let routes = self.get(routes, "/certs", |admin| {
            Response::json(&dump::certificates(&admin.state))
        });
        let admin = self.clone();
        let routes = routes.post("/drain", move |_| {
            let started = admin.drain.start();
            let text = if started {
                "draining\n"
            } else {
                "draining already\n"
            };
            async move { Response::text(StatusCode::OK, text) }
        });
        routes.post("/logging", |request| async move {
            let filter = String::from_utf8_lossy(&request.body).trim().to_owned();
            match logging::set_filter(&filter) {
                Ok(()) => Response::text(StatusCode::OK, format!("{filter}\n")),
                Err(error) => Response::text(StatusCode::BAD_REQUEST, format!("{error}\n")),
            }
        })
    }

    /// 15020: the scrape, with the application's metrics if they are asked for.
    pub fn metrics_routes(&self) -> Routes {
        let metrics = Arc::clone(&self.metrics);
        let declared = self.settings.in_pod.application_metrics.clone();
        if let (Some(application), Some(declared)) = (self.application.clone(), declared) {
            let merged = Arc::new(Merged {
                application,
                declared,
                metrics,
            });
            return scrape::routes(Routes::new(), merge::PAUSE, move || {
                let merged = Arc::clone(&merged);
                async move { merged.expose().await }
            });
        }
        scrape::routes(Routes::new(), SCRAPE_PAUSE, move || {
            std::future::ready(exposition::expose(metrics.registry()))
        })
    }

    /// 15021: `/ready` and `/live`.
    pub fn health_routes(&self) -> Routes {
        let routes = self.get(Routes::new(), "/ready", |admin| match admin.unready() {
            None => Response::text(StatusCode::OK, "ready\n"),
            Some(reason) => Response::text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        });
        routes.get("/live", |_| async {
            Response::text(StatusCode::OK, "live\n")
        })
    }

    /// 15021 of a sidecar: the health routes, and the application's probes and hooks.
    pub fn pod_routes(&self) -> Routes {
        let key = self.settings.in_pod.hook_key;
        pod::routes(self.health_routes(), &self.prober, &self.leave, key)
    }

    /// Why the proxy should get no traffic.
    fn unready(&self) -> Option<&'static str> {
        let snapshot = self.state.snapshot();
        if self.drain.is_draining() {
            return Some("draining");
        }
        match self.settings.role {
            Role::Sidecar { .. } if snapshot.inbound.is_none() => {
                Some("no inbound configuration yet")
            }
            Role::Gateway { .. } if snapshot.gateway.is_empty() => {
                Some("no gateway configuration yet")
            }
            _ if snapshot.identity.is_none() => Some("no certificate yet"),
            Role::Sidecar { .. } | Role::Gateway { .. } => None,
        }
    }

    fn get(&self, routes: Routes, path: &'static str, answer: fn(&Admin) -> Response) -> Routes {
        let admin = self.clone();
        routes.get(path, move |_| {
            let response = answer(&admin);
            async move { response }
        })
    }
}
