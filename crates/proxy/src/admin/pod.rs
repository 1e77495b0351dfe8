//! 15021 `/app/CONTAINER/KIND`: what the kubelet asks of an injected Pod.
//!
//! Strangers reach this port too. Probes are answered to anybody: a status, made at most twice a second. Hooks do something,
//! so whoever calls one must have the key that the injector made for this Pod.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tasuki_runtime::admin::{Limits, Request, Response, Routes};
use tasuki_runtime::hook_key::{self, HookKey};

use crate::departure::Leave;
use crate::probe::{Kind, Prober};

/// The kubelet asks each container's probes at most once at a time, and its hooks, which wait, are held beyond these.
pub const LIMITS: Limits = Limits {
    connections: 512,
    per_address: 64,
    header_timeout: Duration::from_secs(10),
    body_timeout: Duration::from_secs(1),
    // A hook may take its Pod's grace period.
    request_timeout: Duration::from_secs(3600),
    write_timeout: Duration::from_secs(10),
    body_bytes: 1024,
};

/// What the port has to offer.
struct Pod {
    prober: Prober,
    leave: Leave,
    hook_key: Option<HookKey>,
}

/// Adds them.
pub fn routes(routes: Routes, prober: &Prober, leave: &Leave, hook_key: Option<HookKey>) -> Routes {
    let pod = Arc::new(Pod {
        prober: prober.clone(),
        leave: leave.clone(),
        hook_key,
    });
    routes.get("/app/", move |request| {
        let pod = Arc::clone(&pod);
        async move { pod.answer(&request).await }
    })
}

impl Pod {
    async fn answer(&self, request: &Request) -> Response {
        let asked = request
            .path
            .strip_prefix("/app/")
            .and_then(|rest| rest.split_once('/'))
            .and_then(|(container, kind)| Some((container, Kind::parse(kind)?)));
        match asked {
            Some((container, kind)) if kind.is_hook() => self.hook(request, container, kind).await,
            Some((container, kind)) => match self.prober.ask(container, kind).await {
                Some(outcome) => Response::text(outcome.status(), format!("{outcome}\n")),
                None => Response::text(StatusCode::NOT_FOUND, "not declared\n"),
            },
            None => {
                let text =
                    "there is /app/CONTAINER/readiness, liveness, startup, poststart and prestop\n";
                Response::text(StatusCode::NOT_FOUND, text)
            }
        }
    }

    async fn hook(&self, request: &Request, container: &str, kind: Kind) -> Response {
        if !self.is_kubelet(request) {
            // Whether such a hook is declared is nobody else's business.
            let text = format!("a hook, and header {} has not its key\n", hook_key::HEADER);
            return Response::text(StatusCode::NOT_FOUND, text);
        }
        request.keep_place();
        match self.prober.ask(container, kind).await {
            // The kubelet looks at no status of a hook: only a connection that breaks is a failure to it.
            Some(outcome) if !outcome.status().is_success() => Response::hang_up(),
            Some(outcome) => Response::text(outcome.status(), format!("{outcome}\n")),
            None if kind == Kind::PreStop => {
                let reason = self.leave.pre_stop().await;
                Response::text(StatusCode::OK, format!("{reason:?}\n"))
            }
            None => Response::text(StatusCode::NOT_FOUND, "not declared\n"),
        }
    }

    fn is_kubelet(&self, request: &Request) -> bool {
        let presented = request.headers.get(hook_key::HEADER);
        let key = self.hook_key.as_ref();
        key.zip(presented)
            .is_some_and(|(key, presented)| key.is(presented.as_bytes()))
    }
}

#[cfg(test)]
mod tests;
