//! The snapshot as JSON, for `/config_dump`, `/clusters`, `/listeners` and `/certs`.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tasuki_xds::model::cluster::Discovery;

use crate::cluster::Cluster;
use crate::settings::Settings;
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
        "inbound": snapshot.inbound.as_ref().map(|inbound| format!("{inbound:?}")),
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

fn outbound(outbound: &Arc<Outbound>) -> Value {
    json!({
        "name": outbound.name.as_str(),
        "protocol": format!("{:?}", outbound.protocol),
        "http": outbound.http.as_ref().map(|table| format!("{table:?}")),
        "tcp": outbound.tcp.as_deref().map(tcp),
        "tls": outbound.tls.iter().map(|target| json!({
            "server_names": target.server_names,
            "tcp": tcp(&target.tcp),
        })).collect::<Vec<_>>(),
        "idle_seconds": outbound.idle().as_secs(),
    })
}

fn tcp(target: &TcpTarget) -> Value {
    let cluster = |(name, weight, cluster): &(String, u32, Option<Arc<Cluster>>)| json!({ "cluster": name, "weight": weight, "present": cluster.is_some() });
    Value::Array(target.clusters.iter().map(cluster).collect())
}

/// Clusters with their endpoints, load and ejections.
pub fn clusters(snapshot: &Snapshot) -> Value {
    let mut all: Vec<_> = snapshot.clusters.values().collect();
    all.sort_by(|a, b| a.name().cmp(b.name()));
    Value::Array(all.into_iter().map(|c| cluster(c)).collect())
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
