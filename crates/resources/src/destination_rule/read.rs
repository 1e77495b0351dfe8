//! Reading `trafficPolicy`.

use super::policy::{
    ConnectionPool, H2Upgrade, HttpPool, LoadBalancer, OutlierDetection, PolicySettings,
    RetryBudget, TcpKeepalive, TcpPool, TlsMode, TlsSettings, TrafficPolicy,
};
use crate::fields::{Fields, Value};

pub(super) fn traffic_policy(value: &Value<'_>) -> TrafficPolicy {
    let Some(fields) = value.fields() else {
        return TrafficPolicy::default();
    };
    fields.not_honoured(&["tunnel", "proxyProtocol"]);
    let mut policy = TrafficPolicy {
        settings: settings(&fields),
        ..TrafficPolicy::default()
    };
    policy.settings.retry_budget = fields.get("retryBudget").and_then(|v| retry_budget(&v));
    for item in fields.get("portLevelSettings").iter().flat_map(Value::list) {
        let Some(own) = item.fields() else { continue };
        let port = own.require("port").and_then(|v| port_selector(&v));
        let settings = settings(&own);
        own.finish();
        let Some(port) = port else { continue };
        if policy.ports.insert(port, settings).is_some() {
            item.error(format!("port {port} is given twice"), "");
        }
    }
    fields.finish();
    policy
}

fn port_selector(value: &Value<'_>) -> Option<u16> {
    let port = value.fields()?;
    let number = port.require("number").and_then(|v| v.port());
    port.finish();
    number
}

/// What both a policy and its port levels have.
fn settings(fields: &Fields<'_>) -> PolicySettings {
    PolicySettings {
        load_balancer: fields.get("loadBalancer").and_then(|v| load_balancer(&v)),
        connection_pool: fields
            .get("connectionPool")
            .and_then(|v| connection_pool(&v)),
        outlier_detection: fields
            .get("outlierDetection")
            .and_then(|v| outlier_detection(&v)),
        tls: fields.get("tls").and_then(|v| tls(&v)),
        retry_budget: None,
    }
}

fn load_balancer(value: &Value<'_>) -> Option<LoadBalancer> {
    let fields = value.fields()?;
    if fields.count(&["simple", "consistentHash", "backendUtilization"]) > 1 {
        value.error(
            "only one of simple, consistentHash and backendUtilization can be set",
            "",
        );
    }
    if let Some(warmup) = fields.get("warmup") {
        check_warmup(&warmup);
    }
    fields.not_honoured(&[
        "consistentHash",
        "backendUtilization",
        "localityLbSetting",
        "zoneAwareLbSetting",
        "warmup",
        "warmupDurationSecs",
    ]);
    let known = [
        ("UNSPECIFIED", Some(LoadBalancer::LeastRequest)),
        ("LEAST_REQUEST", Some(LoadBalancer::LeastRequest)),
        ("LEAST_CONN", Some(LoadBalancer::LeastRequest)),
        ("ROUND_ROBIN", Some(LoadBalancer::RoundRobin)),
        ("RANDOM", Some(LoadBalancer::Random)),
        ("PASSTHROUGH", None),
    ];
    let simple = fields.get("simple").and_then(|v| {
        let choice = v.choice(&known)?;
        if choice.is_none() {
            v.not_honoured("PASSTHROUGH");
        }
        choice
    });
    fields.finish();
    simple
}

/// Checked although it is not honoured, so that the message is about the mistake.
fn check_warmup(value: &Value<'_>) {
    let Some(warmup) = value.fields() else { return };
    warmup.require("duration").and_then(|v| v.duration());
    warmup
        .get("minimumPercent")
        .and_then(|v| v.number(0.0, 100.0));
    warmup
        .get("aggression")
        .and_then(|v| v.number(0.0, f64::INFINITY));
    warmup.finish();
}

pub(crate) fn connection_pool(value: &Value<'_>) -> Option<ConnectionPool> {
    let fields = value.fields()?;
    let pool = ConnectionPool {
        tcp: fields
            .get("tcp")
            .and_then(|v| tcp_pool(&v))
            .unwrap_or_default(),
        http: fields
            .get("http")
            .and_then(|v| http_pool(&v))
            .unwrap_or_default(),
    };
    fields.finish();
    Some(pool)
}

fn tcp_pool(value: &Value<'_>) -> Option<TcpPool> {
    let fields = value.fields()?;
    fields.not_honoured(&["maxConnectionDuration"]);
    let pool = TcpPool {
        max_connections: fields.get("maxConnections").and_then(|v| v.i32_positive()),
        connect_timeout: fields.get("connectTimeout").and_then(|v| v.duration()),
        idle_timeout: fields.get("idleTimeout").and_then(|v| v.duration_or_zero()),
        keepalive: fields.get("tcpKeepalive").and_then(|v| keepalive(&v)),
    };
    fields.finish();
    Some(pool)
}

fn keepalive(value: &Value<'_>) -> Option<TcpKeepalive> {
    let fields = value.fields()?;
    let keepalive = TcpKeepalive {
        probes: fields.get("probes").and_then(|v| v.u32()),
        time: fields.get("time").and_then(|v| v.duration()),
        interval: fields.get("interval").and_then(|v| v.duration()),
    };
    fields.finish();
    Some(keepalive)
}

fn http_pool(value: &Value<'_>) -> Option<HttpPool> {
    let fields = value.fields()?;
    fields.not_honoured(&["http2KeepAlive"]);
    let limit = |name| fields.get(name).and_then(|v| v.i32_positive());
    let upgrades = [
        ("DEFAULT", H2Upgrade::Default),
        ("UPGRADE", H2Upgrade::Upgrade),
        ("DO_NOT_UPGRADE", H2Upgrade::DoNotUpgrade),
    ];
    let pool = HttpPool {
        max_pending_requests: limit("http1MaxPendingRequests"),
        max_requests: limit("http2MaxRequests"),
        max_retries: limit("maxRetries"),
        max_requests_per_connection: limit("maxRequestsPerConnection"),
        max_concurrent_streams: limit("maxConcurrentStreams"),
        idle_timeout: fields.get("idleTimeout").and_then(|v| v.duration()),
        h2_upgrade: fields
            .get("h2UpgradePolicy")
            .and_then(|v| v.choice(&upgrades))
            .unwrap_or_default(),
        use_client_protocol: fields
            .get("useClientProtocol")
            .and_then(|v| v.boolean())
            .unwrap_or(false),
    };
    if pool.use_client_protocol && pool.h2_upgrade == H2Upgrade::Upgrade {
        value.error(
            "use client protocol must not be true when H2UpgradePolicy is UPGRADE",
            "",
        );
    }
    fields.finish();
    Some(pool)
}

fn outlier_detection(value: &Value<'_>) -> Option<OutlierDetection> {
    let fields = value.fields()?;
    fields.not_honoured(&["consecutiveErrors", "outlierDetectionHttpErrorCodes"]);
    let count = |name| fields.get(name).and_then(|v| v.u32());
    let detection = OutlierDetection {
        consecutive_5xx: count("consecutive5xxErrors"),
        consecutive_gateway_errors: count("consecutiveGatewayErrors"),
        consecutive_local_origin: count("consecutiveLocalOriginFailures"),
        split_local_origin: fields
            .get("splitExternalLocalOriginErrors")
            .and_then(|v| v.boolean())
            .unwrap_or(false),
        interval: fields.get("interval").and_then(|v| v.duration()),
        base_ejection: fields.get("baseEjectionTime").and_then(|v| v.duration()),
        max_ejection_percent: fields.get("maxEjectionPercent").and_then(|v| v.percent()),
        min_health_percent: fields.get("minHealthPercent").and_then(|v| v.percent()),
    };
    if !detection.split_local_origin && detection.consecutive_local_origin.is_some_and(|n| n > 0) {
        fields.error_at(
            "consecutiveLocalOriginFailures",
            "needs splitExternalLocalOriginErrors",
            "set splitExternalLocalOriginErrors: true",
        );
    }
    fields.finish();
    Some(detection)
}

pub(crate) fn retry_budget(value: &Value<'_>) -> Option<RetryBudget> {
    let fields = value.fields()?;
    // Zero is what happens anyway: only what is in flight counts.
    if let Some(interval) = fields
        .get("budgetInterval")
        .filter(|v| v.duration_or_zero().is_some_and(|d| !d.is_zero()))
    {
        interval.not_honoured("");
    }
    let budget = RetryBudget {
        percent: fields
            .get("percent")
            .and_then(|v| v.number(0.0, 100.0))
            .unwrap_or(20.0),
        min_concurrent: fields
            .get("minRetryConcurrency")
            .and_then(|v| v.u32())
            .unwrap_or(3),
    };
    fields.finish();
    Some(budget)
}

fn tls(value: &Value<'_>) -> Option<TlsSettings> {
    let fields = value.fields()?;
    fields.not_honoured(&[
        "clientCertificate",
        "privateKey",
        "caCertificates",
        "caCrl",
        "credentialName",
        "insecureSkipVerify",
    ]);
    let modes = [
        ("DISABLE", Some(TlsMode::Disable)),
        ("SIMPLE", Some(TlsMode::Simple)),
        ("ISTIO_MUTUAL", Some(TlsMode::IstioMutual)),
        ("MUTUAL", None),
    ];
    // Absent is DISABLE, the first value of the protobuf enum.
    let mode = fields.get("mode").map_or(Some(TlsMode::Disable), |v| {
        let mode = v.choice(&modes)?;
        if mode.is_none() {
            v.not_honoured("MUTUAL");
        }
        mode
    });
    let sni = fields.get("sni").and_then(|v| v.text().map(str::to_owned));
    let names: Vec<_> = fields
        .get("subjectAltNames")
        .iter()
        .flat_map(Value::strings)
        .map(str::to_owned)
        .collect();
    if mode == Some(TlsMode::Disable) && (sni.is_some() || !names.is_empty()) {
        value.error(
            "mode DISABLE takes neither sni nor subjectAltNames",
            "write mode: SIMPLE or ISTIO_MUTUAL",
        );
    }
    fields.finish();
    Some(TlsSettings {
        mode: mode?,
        sni,
        subject_alt_names: names,
    })
}
