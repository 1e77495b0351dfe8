//! 15021 `/app/CONTAINER/KIND`: what the kubelet asks of an injected Pod.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tasuki_runtime::admin::{Limits, Request, Response, Routes};

use crate::departure::Leave;
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
pub fn routes(routes: Routes, prober: &Prober, leave: &Leave) -> Routes {
    let pod = Arc::new((prober.clone(), leave.clone()));
    routes.get("/app/", move |request| {
        let pod = Arc::clone(&pod);
        async move { answer(&pod.0, &pod.1, &request).await }
    })
}

async fn answer(prober: &Prober, leave: &Leave, request: &Request) -> Response {
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
        None if kind == Kind::PreStop => {
            let reason = leave.pre_stop().await;
            Response::text(StatusCode::OK, format!("{reason:?}\n"))
        }
        None => Response::text(StatusCode::NOT_FOUND, "not declared\n"),
    }
}
