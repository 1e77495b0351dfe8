//! 15021 `/app/CONTAINER/KIND`: what the kubelet asks of an injected Pod.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tasuki_runtime::admin::{Limits, Request, Response, Routes};

use crate::probe::{Kind, Prober};

/// A hook may take its Pod's grace period, and strangers reach this port too: no address may have all the places.
pub const LIMITS: Limits = Limits {
    connections: 512,
    per_address: 64,
    header_timeout: Duration::from_secs(10),
    body_timeout: Duration::from_secs(1),
    request_timeout: Duration::from_secs(3600),
    body_bytes: 1024,
};

/// Adds them.
pub fn routes(routes: Routes, prober: &Prober) -> Routes {
    let prober = Arc::new(prober.clone());
    routes.get("/app/", move |request| {
        let prober = Arc::clone(&prober);
        async move { answer(&prober, &request).await }
    })
}

async fn answer(prober: &Prober, request: &Request) -> Response {
    let asked = request
        .path
        .strip_prefix("/app/")
        .and_then(|rest| rest.split_once('/'))
        .and_then(|(container, kind)| Some((container, Kind::parse(kind)?)));
    let Some((container, kind)) = asked else {
        let text = "there is /app/CONTAINER/readiness, liveness, startup, poststart and prestop\n";
        return Response::text(StatusCode::NOT_FOUND, text);
    };
    match prober.ask(container, kind).await {
        Some(outcome) if kind.is_hook() && !outcome.status().is_success() => {
            // The kubelet looks at no status of a hook: only a connection that breaks is a failure to it.
            Response::hang_up()
        }
        Some(outcome) => Response::text(outcome.status(), format!("{outcome}\n")),
        None => Response::text(StatusCode::NOT_FOUND, "not declared\n"),
    }
}
