//! `DestinationRule`, and the parts of its traffic policy that `MeshSettings` shares.

use super::schema::{
    Schema, boolean, choice, duration, extended, integer, list, map, number, object, text,
    text_map, texts,
};

pub fn destination_rule() -> Schema {
    object([
        ("host", text()),
        ("trafficPolicy", traffic_policy()),
        ("subsets", list(subset())),
        ("exportTo", texts()),
        ("workloadSelector", object([("matchLabels", text_map())])),
    ])
}

fn subset() -> Schema {
    object([
        ("name", text()),
        ("labels", text_map()),
        ("trafficPolicy", traffic_policy()),
    ])
}

fn traffic_policy() -> Schema {
    let port = object([("number", integer())]);
    extended(
        settings(),
        [
            (
                "portLevelSettings",
                list(extended(settings(), [("port", port)])),
            ),
            (
                "proxyProtocol",
                object([("version", choice(&["V1", "V2"]))]),
            ),
            ("retryBudget", retry_budget()),
            ("tunnel", tunnel()),
        ],
    )
}

/// What a policy and its port levels have.
fn settings() -> Schema {
    object([
        ("connectionPool", connection_pool()),
        ("loadBalancer", load_balancer()),
        ("outlierDetection", outlier_detection()),
        ("tls", client_tls()),
    ])
}

pub fn connection_pool() -> Schema {
    let tcp = object([
        ("connectTimeout", duration()),
        ("idleTimeout", duration()),
        ("maxConnectionDuration", duration()),
        ("maxConnections", integer()),
        (
            "tcpKeepalive",
            object([
                ("interval", duration()),
                ("probes", integer()),
                ("time", duration()),
            ]),
        ),
    ]);
    let keepalive = object([("interval", duration()), ("timeout", duration())]);
    let upgrades = choice(&["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"]);
    let http = object([
        ("h2UpgradePolicy", upgrades),
        ("http1MaxPendingRequests", integer()),
        ("http2KeepAlive", keepalive),
        ("http2MaxRequests", integer()),
        ("idleTimeout", duration()),
        ("maxConcurrentStreams", integer()),
        ("maxRequestsPerConnection", integer()),
        ("maxRetries", integer()),
        ("useClientProtocol", boolean()),
    ]);
    object([("tcp", tcp), ("http", http)])
}

pub fn retry_budget() -> Schema {
    object([
        ("budgetInterval", duration()),
        ("minRetryConcurrency", integer()),
        ("percent", number()),
    ])
}

fn load_balancer() -> Schema {
    let failover = || {
        [
            ("enabled", boolean()),
            ("failover", list(object([("from", text()), ("to", text())]))),
            ("failoverPriority", texts()),
        ]
    };
    let distribute = object([("from", text()), ("to", map(integer()))]);
    object([
        (
            "simple",
            choice(&[
                "UNSPECIFIED",
                "LEAST_CONN",
                "RANDOM",
                "PASSTHROUGH",
                "ROUND_ROBIN",
                "LEAST_REQUEST",
            ]),
        ),
        ("consistentHash", consistent_hash()),
        ("backendUtilization", backend_utilization()),
        (
            "localityLbSetting",
            extended(object(failover()), [("distribute", list(distribute))]),
        ),
        (
            "zoneAwareLbSetting",
            extended(object(failover()), [("minClusterSize", integer())]),
        ),
        (
            "warmup",
            object([
                ("aggression", number()),
                ("duration", duration()),
                ("minimumPercent", number()),
            ]),
        ),
        ("warmupDurationSecs", duration()),
    ])
}

fn consistent_hash() -> Schema {
    let attribute = object([("name", text()), ("value", text())]);
    let cookie = object([
        ("attributes", list(attribute)),
        ("name", text()),
        ("path", text()),
        ("ttl", duration()),
    ]);
    object([
        ("httpCookie", cookie),
        ("httpHeaderName", text()),
        ("httpQueryParameterName", text()),
        ("maglev", object([("tableSize", integer())])),
        ("minimumRingSize", integer()),
        ("ringHash", object([("minimumRingSize", integer())])),
        ("useSourceIp", boolean()),
    ])
}

fn backend_utilization() -> Schema {
    object([
        ("errorUtilizationPenaltyPercent", integer()),
        ("metricNamesForComputingUtilization", texts()),
        ("weightExpirationPeriod", duration()),
        ("weightStabilizationPeriod", duration()),
        ("weightUpdatePeriod", duration()),
    ])
}

fn outlier_detection() -> Schema {
    object([
        ("baseEjectionTime", duration()),
        ("consecutive5xxErrors", integer()),
        ("consecutiveErrors", integer()),
        ("consecutiveGatewayErrors", integer()),
        ("consecutiveLocalOriginFailures", integer()),
        ("interval", duration()),
        ("maxEjectionPercent", integer()),
        ("minHealthPercent", integer()),
        ("outlierDetectionHttpErrorCodes", list(integer())),
        ("splitExternalLocalOriginErrors", boolean()),
    ])
}

fn client_tls() -> Schema {
    object([
        ("caCertificates", text()),
        ("caCrl", text()),
        ("clientCertificate", text()),
        ("credentialName", text()),
        ("insecureSkipVerify", boolean()),
        (
            "mode",
            choice(&["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]),
        ),
        ("privateKey", text()),
        ("sni", text()),
        ("subjectAltNames", texts()),
    ])
}

fn tunnel() -> Schema {
    object([
        ("protocol", text()),
        ("targetHost", text()),
        ("targetPort", integer()),
    ])
}
