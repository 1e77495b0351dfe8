//! The snapshot as JSON, for `/config_dump`, `/clusters`, `/listeners` and `/certs`.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tasuki_xds::model::cluster::Discovery;
use tasuki_xds::model::listener::Filter;
use tasuki_xds::model::route::{Route, RouteAction};
use tasuki_xds::model::{Listener, RouteConfiguration};

use crate::cluster::Cluster;
use crate::settings::Settings;
use crate::state::dependencies::inline_routes;
use crate::state::{Outbound, Snapshot, State, TcpTarget};

/// Everything.
pub fn config(snapshot: &Snapshot) -> Value {
    let mut outbound: Vec<_> = snapshot.outbound.values().collect();
    outbound.sort_by(|a, b| a.name.cmp(&b.name));
    let mut gateway: Vec<_> = snapshot.gateway.values().collect();
    gateway.sort_by(|a, b| a.name.cmp(&b.name));
    json!({
        "generation": snapshot.generation,
        "workload": format!("{:?}", snapshot.workload),
        "identity": snapshot.identity.as_ref().map(|identity| identity.id().to_string()),
        "inbound": snapshot.inbound_source.as_deref().map(inbound),
        "passthrough": self::outbound(&snapshot.passthrough),
        "outbound": outbound.into_iter().map(|o| self::outbound(o)).collect::<Vec<_>>(),
        "gateway": gateway.into_iter().map(|listener| json!({
            "name": listener.name.as_str(),
            "address": listener.address,
            "routes": self::outbound(&listener.outbound),
        })).collect::<Vec<_>>(),
        "clusters": clusters(snapshot),
    })
}

fn outbound(outbound: &Outbound) -> Value {
    let source = outbound.source.as_ref();
    json!({
        "name": outbound.name.as_str(),
        "protocol": format!("{:?}", outbound.protocol),
        "routes": source.and_then(|(listener, routes)| {
            routes.as_deref().or_else(|| inline_routes(listener)).map(self::routes)
        }),
        "tcp": outbound.tcp.as_deref().map(tcp),
        "tls": outbound.tls.iter().map(|target| json!({
            "server_names": target.server_names,
            "tcp": tcp(&target.tcp),
        })).collect::<Vec<_>>(),
        "idle_seconds": outbound.idle().as_secs(),
    })
}

fn routes(table: &RouteConfiguration) -> Value {
    let hosts = table.virtual_hosts.iter().map(|host| {
        json!({
            "domains": host.domains,
            "routes": host.routes.iter().map(route).collect::<Vec<_>>(),
        })
    });
    json!({ "name": table.name, "virtual_hosts": hosts.collect::<Vec<_>>() })
}

fn route(route: &Route) -> Value {
    let action = match &route.action {
        RouteAction::Forward(forward) => json!({
            "clusters": forward.clusters.iter().map(|cluster| json!({ "name": cluster.name, "weight": cluster.weight }))
                .collect::<Vec<_>>(),
            "timeout_ms": forward.timeout.map(|timeout| timeout.as_millis() as u64),
            "retry": forward.retry.as_ref().map(|retry| format!("{retry:?}")),
            "path_rewrite": forward.path_rewrite.as_ref().map(|rewrite| format!("{rewrite:?}")),
            "host_rewrite": forward.host_rewrite,
        }),
        RouteAction::Redirect(redirect) => json!({ "redirect": format!("{redirect:?}") }),
        RouteAction::Direct(direct) => json!({ "direct_response": direct.status }),
        RouteAction::NonForwarding => json!("non_forwarding"),
    };
    json!({ "name": route.name, "match": format!("{:?}", route.matches), "action": action })
}

/// The workload's own ports, chain by chain.
fn inbound(listener: &Listener) -> Value {
    let chains = listener.chains.iter().chain(&listener.default_chain).map(|chain| {
        let (kind, rbac) = match &chain.filter {
            Filter::Http(http) => ("http", &http.rbac),
            Filter::Tcp(tcp) => ("tcp", &tcp.rbac),
        };
        json!({
            "name": chain.name,
            "match": format!("{:?}", chain.matches),
            "tls": chain.tls.is_some(),
            "kind": kind,
            "policies": rbac.iter().map(|filter| json!({
                "action": format!("{:?}", filter.action),
                "names": filter.policies.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
        })
    });
    Value::Array(chains.collect())
}

fn tcp(target: &TcpTarget) -> Value {
    let cluster = |(name, weight, cluster): &(String, u32, Option<Arc<Cluster>>)| json!({ "cluster": name, "weight": weight, "present": cluster.is_some() });
    Value::Array(target.clusters.iter().map(cluster).collect())
}

/// Clusters with their endpoints, load and ejections.
pub fn clusters(snapshot: &Snapshot) -> Value {
    let mut all: Vec<_> = snapshot.clusters.values().collect();
    all.sort_by(|a, b| a.name().cmp(b.name()));
    Value::Array(all.into_iter().map(cluster).collect())
}

fn cluster(cluster: &Arc<Cluster>) -> Value {
    let now = cluster.now();
    let discovery = match &cluster.config.discovery {
        Discovery::Eds { .. } => "eds",
        Discovery::Dns { .. } => "dns",
        Discovery::Static(_) => "static",
        Discovery::OriginalDestination { .. } => "original_destination",
    };
    let endpoints: Vec<Value> = cluster
        .endpoints()
        .all()
        .map(|endpoint| {
            json!({
                "address": endpoint.address,
                "weight": endpoint.weight,
                "health": format!("{:?}", endpoint.health),
                "active": endpoint.active(),
                "ejected": endpoint.ejection.is_out(now),
                "unreachable": endpoint.reach.is_out(),
                "meshed": endpoint.is_meshed(),
                "workload": endpoint.workload.name,
                "version": endpoint.workload.version,
            })
        })
        .collect();
    json!({
        "name": cluster.name(),
        "discovery": discovery,
        "arrived": cluster.has_arrived(),
        "endpoints": endpoints,
    })
}

/// What the process listens on, and the Listeners it knows.
pub fn listeners(settings: &Settings, snapshot: &Snapshot) -> Value {
    let mut known: Vec<&str> = snapshot.outbound.keys().map(|name| name.as_str()).collect();
    known.sort_unstable();
    json!({
        "outbound": settings.outbound,
        "inbound": settings.inbound,
        "listen": settings.listen.iter().map(|l| json!({ "address": l.address, "to": format!("{}:{}", l.host, l.port) }))
            .collect::<Vec<_>>(),
        "inbound_listen": settings.inbound_listen.iter()
            .map(|l| json!({ "address": l.address, "port": l.port })).collect::<Vec<_>>(),
        "gateway": snapshot.gateway.values().map(|l| json!({ "name": l.name.as_str(), "address": l.address }))
            .collect::<Vec<_>>(),
        "known": known,
    })
}

/// The certificate and the roots; never the key.
pub fn certificates(state: &State) -> Value {
    let snapshot = state.snapshot();
    let certificate = snapshot.identity.as_ref().map(|identity| {
        json!({
            "id": identity.id().to_string(),
            "not_before": seconds(identity.certificate.not_before()),
            "not_after": seconds(identity.certificate.not_after()),
            "chain": identity.certificate.chain_pem(),
        })
    });
    let trust = state
        .trust()
        .map(|bundle| json!({ "trust_domain": bundle.name, "roots": bundle.roots.len() }));
    json!({
        "certificate": certificate,
        "trust": trust,
        "roots": snapshot.identity.as_ref().map(|identity| identity.roots.to_pem()),
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
