//! `VirtualService`.

use super::schema::{
    Schema, boolean, choice, duration, extended, integer, list, map, number, object, text,
    text_map, texts,
};

pub fn spec() -> Schema {
    object([
        ("hosts", texts()),
        ("gateways", texts()),
        ("exportTo", texts()),
        ("http", list(http_route())),
        ("tls", list(tls_route())),
        ("tcp", list(tcp_route())),
    ])
}

fn http_route() -> Schema {
    let mirror = object([("destination", destination()), ("percentage", percent())]);
    object([
        ("name", text()),
        ("match", list(http_match())),
        (
            "route",
            list(extended(weighted_destination(), [("headers", headers())])),
        ),
        ("redirect", redirect()),
        ("directResponse", direct_response()),
        (
            "delegate",
            object([("name", text()), ("namespace", text())]),
        ),
        ("rewrite", rewrite()),
        ("timeout", duration()),
        ("retries", retries()),
        ("fault", fault()),
        ("mirror", destination()),
        ("mirrors", list(mirror)),
        ("mirrorPercent", integer()),
        ("mirror_percent", integer()),
        ("mirrorPercentage", percent()),
        ("corsPolicy", cors_policy()),
        ("headers", headers()),
    ])
}

fn http_match() -> Schema {
    object([
        ("name", text()),
        ("uri", string_match()),
        ("ignoreUriCase", boolean()),
        ("scheme", string_match()),
        ("method", string_match()),
        ("authority", string_match()),
        ("headers", map(string_match())),
        ("withoutHeaders", map(string_match())),
        ("queryParams", map(string_match())),
        ("port", integer()),
        ("sourceLabels", text_map()),
        ("sourceNamespace", text()),
        ("gateways", texts()),
        ("statPrefix", text()),
    ])
}

fn string_match() -> Schema {
    object([("exact", text()), ("prefix", text()), ("regex", text())])
}

fn destination() -> Schema {
    object([
        ("host", text()),
        ("subset", text()),
        ("port", object([("number", integer())])),
    ])
}

fn weighted_destination() -> Schema {
    object([("destination", destination()), ("weight", integer())])
}

fn percent() -> Schema {
    object([("value", number())])
}

fn headers() -> Schema {
    let changes = || {
        object([
            ("set", text_map()),
            ("add", text_map()),
            ("remove", texts()),
        ])
    };
    object([("request", changes()), ("response", changes())])
}

fn redirect() -> Schema {
    let ports = choice(&["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"]);
    object([
        ("uri", text()),
        ("prefixRewrite", text()),
        ("authority", text()),
        ("port", integer()),
        ("derivePort", ports),
        ("scheme", text()),
        ("redirectCode", integer()),
    ])
}

fn direct_response() -> Schema {
    let body = object([("string", text()), ("bytes", text())]);
    object([("status", integer()), ("body", body)])
}

fn rewrite() -> Schema {
    let regex = object([("match", text()), ("rewrite", text())]);
    object([
        ("uri", text()),
        ("authority", text()),
        ("uriRegexRewrite", regex),
    ])
}

fn retries() -> Schema {
    object([
        ("attempts", integer()),
        ("perTryTimeout", duration()),
        ("retryOn", text()),
        ("retryRemoteLocalities", boolean()),
        ("retryIgnorePreviousHosts", boolean()),
        ("backoff", duration()),
    ])
}

fn fault() -> Schema {
    let delay = object([
        ("fixedDelay", duration()),
        ("exponentialDelay", duration()),
        ("percent", integer()),
        ("percentage", percent()),
    ]);
    let abort = object([
        ("httpStatus", integer()),
        ("grpcStatus", text()),
        ("http2Error", text()),
        ("percentage", percent()),
    ]);
    object([("delay", delay), ("abort", abort)])
}

fn cors_policy() -> Schema {
    let preflights = choice(&["UNSPECIFIED", "FORWARD", "IGNORE"]);
    object([
        ("allowOrigin", texts()),
        ("allowOrigins", list(string_match())),
        ("allowMethods", texts()),
        ("allowHeaders", texts()),
        ("exposeHeaders", texts()),
        ("maxAge", duration()),
        ("allowCredentials", boolean()),
        ("unmatchedPreflights", preflights),
    ])
}

fn tls_route() -> Schema {
    let found = extended(connection_match(), [("sniHosts", texts())]);
    object([
        ("match", list(found)),
        ("route", list(weighted_destination())),
    ])
}

fn tcp_route() -> Schema {
    let found = extended(connection_match(), [("sourceSubnet", text())]);
    object([
        ("match", list(found)),
        ("route", list(weighted_destination())),
    ])
}

fn connection_match() -> Schema {
    object([
        ("destinationSubnets", texts()),
        ("port", integer()),
        ("sourceLabels", text_map()),
        ("sourceNamespace", text()),
        ("gateways", texts()),
    ])
}
