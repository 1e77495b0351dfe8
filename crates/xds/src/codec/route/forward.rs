//! Forwarding: weighted clusters, timeouts, rewrites and the retry policy.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HeaderValueOption, RoutingPriority};
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{
    RetryBackOff, RetryHostPredicate, retry_host_predicate,
};
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterSpecifier, HostRewriteSpecifier, MaxStreamDuration,
};
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use envoy_types::pb::google::protobuf::Duration as PbDuration;

use super::read_weight;
use crate::codec::Dialect;
use crate::codec::field::{
    Fault, Read, Within, duration, each, optional_duration, pack, read_uint, refuse, required,
    uint, unpack,
};
use crate::codec::headers::{self, is_authority};
use crate::codec::matching::{read_regex, regex};
use crate::model::route::{
    AppendAction, Forward, HeaderMutations, PathRewrite, RetryOn, RetryPolicy, WeightedCluster,
};

const PREVIOUS_HOSTS: &str = "envoy.retry_host_predicates.previous_hosts";

/// How often Envoy looks for a host that was not tried yet; Istio's number.
const HOST_SELECTIONS: i64 = 5;

/// Envoy's default when a route says nothing.
const ENVOY_TIMEOUT: Duration = Duration::from_secs(15);

const ENVOY_BACKOFF: Duration = Duration::from_millis(25);

/// Names of Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.
const CONDITIONS: [(RetryOn, &str); 15] = [
    (RetryOn::Http5xx, "5xx"),
    (RetryOn::GatewayError, "gateway-error"),
    (RetryOn::Reset, "reset"),
    (RetryOn::ResetBeforeRequest, "reset-before-request"),
    (RetryOn::ConnectFailure, "connect-failure"),
    (RetryOn::EnvoyRatelimited, "envoy-ratelimited"),
    (RetryOn::Retriable4xx, "retriable-4xx"),
    (RetryOn::RefusedStream, "refused-stream"),
    (RetryOn::RetriableStatusCodes, "retriable-status-codes"),
    (
        RetryOn::Http3PostConnectFailure,
        "http3-post-connect-failure",
    ),
    (RetryOn::GrpcCancelled, "cancelled"),
    (RetryOn::GrpcDeadlineExceeded, "deadline-exceeded"),
    (RetryOn::GrpcInternal, "internal"),
    (RetryOn::GrpcResourceExhausted, "resource-exhausted"),
    (RetryOn::GrpcUnavailable, "unavailable"),
];

fn condition(on: RetryOn) -> &'static str {
    CONDITIONS
        .iter()
        .find(|(c, _)| *c == on)
        .map_or("", |(_, name)| name)
}

#[allow(deprecated, reason = "`max_grpc_timeout`, see `envoy_grpc_timeout`")]
pub(super) fn write(
    of: &Forward,
    request_headers: &HeaderMutations,
    dialect: &Dialect,
) -> pb::RouteAction {
    let Forward {
        clusters,
        timeout,
        grpc_timeout_max,
        retry,
        path_rewrite,
        host_rewrite,
    } = of;
    let (prefix_rewrite, regex_rewrite) = match path_rewrite {
        None => (String::new(), None),
        Some(PathRewrite::Prefix(prefix)) => (prefix.clone(), None),
        Some(PathRewrite::Regex {
            pattern,
            substitution,
        }) => {
            let substitution = substitution.clone();
            (
                String::new(),
                Some(RegexMatchAndSubstitute {
                    pattern: Some(regex(pattern)),
                    substitution,
                }),
            )
        }
    };
    let authority = match dialect {
        Dialect::Tasuki => host_rewrite.clone(),
        Dialect::Envoy { .. } | Dialect::Grpc { .. } => host_rewrite
            .clone()
            .or_else(|| authority_of(request_headers)),
    };
    pb::RouteAction {
        cluster_specifier: Some(specifier(clusters, dialect)),
        prefix_rewrite,
        regex_rewrite,
        host_rewrite_specifier: authority.map(HostRewriteSpecifier::HostRewriteLiteral),
        timeout: duration(timeout.unwrap_or_default()),
        max_stream_duration: stream_duration(*timeout, *grpc_timeout_max, dialect),
        max_grpc_timeout: envoy_grpc_timeout(*timeout, *grpc_timeout_max, dialect),
        retry_policy: retry_policy(retry.as_ref(), dialect),
        ..pb::RouteAction::default()
    }
}

fn stream_duration(
    timeout: Option<Duration>,
    grpc: Option<Duration>,
    dialect: &Dialect,
) -> Option<MaxStreamDuration> {
    match dialect {
        // gRPC does not read `timeout`, only this (gRFC A31); 0 is no limit.
        Dialect::Grpc { .. } => Some(MaxStreamDuration {
            max_stream_duration: duration(timeout.unwrap_or_default()),
            ..MaxStreamDuration::default()
        }),
        Dialect::Tasuki => grpc.map(|max| MaxStreamDuration {
            grpc_timeout_header_max: duration(max),
            ..MaxStreamDuration::default()
        }),
        Dialect::Envoy { .. } => None,
    }
}

/// A `max_stream_duration` of any kind makes Envoy disregard the route's `timeout`, for requests other than gRPC too. So it gets
/// the deprecated field, as from Istio: the deadline that the client asks for, but no more than the route's timeout.
fn envoy_grpc_timeout(
    timeout: Option<Duration>,
    grpc: Option<Duration>,
    dialect: &Dialect,
) -> Option<PbDuration> {
    match (dialect, grpc?) {
        (Dialect::Tasuki | Dialect::Grpc { .. }, _) => None,
        (Dialect::Envoy { .. }, Duration::ZERO) => duration(timeout.unwrap_or_default()),
        (Dialect::Envoy { .. }, max) => duration(timeout.map_or(max, |timeout| timeout.min(max))),
    }
}

/// The value that a mutation gives to `:authority`, which Envoy only takes as a rewrite.
fn authority_of(mutations: &HeaderMutations) -> Option<String> {
    let add = mutations.add.iter().rfind(|a| is_authority(&a.name))?;
    matches!(
        add.append,
        AppendAction::OverwriteIfExists | AppendAction::OverwriteIfExistsOrAdd
    )
    .then(|| add.value.clone())
}

fn specifier(clusters: &[WeightedCluster], dialect: &Dialect) -> ClusterSpecifier {
    if let [only] = clusters {
        let WeightedCluster {
            name,
            weight,
            request_headers,
            response_headers,
        } = only;
        let plain = *request_headers == HeaderMutations::default()
            && *response_headers == HeaderMutations::default();
        // Alone it takes everything, whatever its weight; Envoy refuses a sum of 0.
        if plain && (*weight == 1 || *dialect != Dialect::Tasuki) {
            return ClusterSpecifier::Cluster(name.clone());
        }
    }
    let alone = clusters.len() == 1;
    let clusters = clusters
        .iter()
        .map(|c| cluster_weight(c, alone, dialect))
        .collect();
    ClusterSpecifier::WeightedClusters(pb::WeightedCluster {
        clusters,
        ..pb::WeightedCluster::default()
    })
}

fn cluster_weight(of: &WeightedCluster, alone: bool, dialect: &Dialect) -> ClusterWeight {
    let WeightedCluster {
        name,
        weight,
        request_headers,
        response_headers,
    } = of;
    let (request_headers_to_add, request_headers_to_remove) =
        headers::write(request_headers, dialect);
    let (response_headers_to_add, response_headers_to_remove) =
        headers::write(response_headers, dialect);
    let authority = (*dialect != Dialect::Tasuki)
        .then(|| authority_of(request_headers))
        .flatten();
    ClusterWeight {
        name: name.clone(),
        weight: uint(if alone { (*weight).max(1) } else { *weight }),
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        host_rewrite_specifier: authority
            .map(pb::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
        ..ClusterWeight::default()
    }
}

fn retry_policy(of: Option<&RetryPolicy>, dialect: &Dialect) -> Option<pb::RetryPolicy> {
    let safe;
    let of = match (of, dialect) {
        (Some(policy), Dialect::Tasuki) => policy,
        // Without conditions, and for gRPC with 0 retries, a policy would be refused.
        (Some(policy), _) if policy.retries == 0 || policy.on.is_empty() => return None,
        (Some(policy), _) => policy,
        // Envoy has no safe default of its own; gRPC retries what was never sent by itself.
        (None, Dialect::Envoy { .. }) => {
            safe = safe_default();
            &safe
        }
        (None, Dialect::Tasuki | Dialect::Grpc { .. }) => return None,
    };
    let RetryPolicy {
        on,
        retries,
        per_try_timeout,
        status_codes,
        backoff_base,
        backoff_max,
        avoid_previous_hosts,
    } = of;
    // Envoy refuses a base of 0 and a maximum below the base.
    let (base, max) = match dialect {
        Dialect::Tasuki => (*backoff_base, *backoff_max),
        _ => {
            let base = (*backoff_base).max(Duration::from_millis(1));
            (base, (*backoff_max).max(base))
        }
    };
    let predicate = RetryHostPredicate {
        name: PREVIOUS_HOSTS.to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(pack(
            &PreviousHostsPredicate {},
        ))),
    };
    let avoid = *avoid_previous_hosts && !matches!(dialect, Dialect::Grpc { .. });
    Some(pb::RetryPolicy {
        retry_on: on
            .iter()
            .map(|c| condition(*c))
            .collect::<Vec<_>>()
            .join(","),
        num_retries: uint(*retries),
        per_try_timeout: per_try_timeout.and_then(duration),
        retriable_status_codes: status_codes.iter().map(|c| u32::from(*c)).collect(),
        retry_back_off: Some(RetryBackOff {
            base_interval: duration(base),
            max_interval: duration(max),
        }),
        retry_host_predicate: avoid.then_some(predicate).into_iter().collect(),
        host_selection_retry_max_attempts: if avoid { HOST_SELECTIONS } else { 0 },
        ..pb::RetryPolicy::default()
    })
}

/// Only what was provably not processed (semantics section 8).
fn safe_default() -> RetryPolicy {
    RetryPolicy {
        on: vec![RetryOn::ConnectFailure, RetryOn::RefusedStream],
        retries: 2,
        per_try_timeout: None,
        status_codes: Vec::new(),
        backoff_base: ENVOY_BACKOFF,
        backoff_max: ENVOY_BACKOFF * 10,
        avoid_previous_hosts: true,
    }
}

#[allow(deprecated, reason = "every field must be named, to be refused")]
pub(super) fn read(message: pb::RouteAction) -> Read<Forward> {
    let pb::RouteAction {
        cluster_not_found_response_code: _, // 503 always, with flag NC
        metadata_match,
        prefix_rewrite,
        regex_rewrite,
        path_rewrite_policy,
        path_rewrite,
        append_x_forwarded_host,
        timeout,
        idle_timeout,
        flush_timeout,
        early_data_policy,
        retry_policy,
        retry_policy_typed_config,
        request_mirror_policies,
        priority,
        rate_limits,
        include_vh_rate_limits,
        hash_policy,
        cors,
        max_grpc_timeout,
        grpc_timeout_offset,
        upgrade_configs,
        internal_redirect_policy,
        internal_redirect_action,
        max_internal_redirects,
        hedge_policy,
        max_stream_duration,
        cluster_specifier,
        host_rewrite_specifier,
    } = message;
    refuse!(
        metadata_match,
        path_rewrite_policy,
        path_rewrite,
        append_x_forwarded_host,
        idle_timeout,
        flush_timeout
    );
    refuse!(
        early_data_policy,
        retry_policy_typed_config,
        request_mirror_policies,
        rate_limits,
        include_vh_rate_limits
    );
    refuse!(
        hash_policy,
        cors,
        grpc_timeout_offset,
        upgrade_configs,
        internal_redirect_policy
    );
    refuse!(
        internal_redirect_action,
        max_internal_redirects,
        hedge_policy
    );
    if priority != RoutingPriority::Default as i32 {
        return Err(Fault::not_honoured("priority"));
    }
    let timeout = optional_duration("timeout", timeout)?.unwrap_or(ENVOY_TIMEOUT);
    let max_grpc = optional_duration("max_grpc_timeout", max_grpc_timeout)?;
    let stream = max_stream_duration
        .map(read_stream_duration)
        .transpose()
        .within("max_stream_duration")?
        .flatten();
    Ok(Forward {
        clusters: read_specifier(required("cluster_specifier", cluster_specifier)?)?,
        timeout: (!timeout.is_zero()).then_some(timeout),
        grpc_timeout_max: stream.or(max_grpc),
        retry: retry_policy
            .map(read_retry)
            .transpose()
            .within("retry_policy")?,
        path_rewrite: read_rewrite(prefix_rewrite, regex_rewrite)?,
        host_rewrite: host_rewrite_specifier.map(read_host).transpose()?,
    })
}

fn read_host(specifier: HostRewriteSpecifier) -> Read<String> {
    match specifier {
        HostRewriteSpecifier::HostRewriteLiteral(host) => {
            http::uri::Authority::try_from(host.as_str()).map_err(|_| {
                Fault::new("host_rewrite_literal", format!("`{host}` is not a host"))
            })?;
            Ok(host)
        }
        HostRewriteSpecifier::AutoHostRewrite(_) => Err(Fault::not_honoured("auto_host_rewrite")),
        HostRewriteSpecifier::HostRewriteHeader(_) => {
            Err(Fault::not_honoured("host_rewrite_header"))
        }
        HostRewriteSpecifier::HostRewritePathRegex(_) => {
            Err(Fault::not_honoured("host_rewrite_path_regex"))
        }
        HostRewriteSpecifier::HostRewrite(_) => Err(Fault::not_honoured("host_rewrite")),
    }
}

fn read_rewrite(
    prefix: String,
    regex: Option<RegexMatchAndSubstitute>,
) -> Read<Option<PathRewrite>> {
    match (prefix.is_empty(), regex) {
        (true, None) => Ok(None),
        (false, None) => Ok(Some(PathRewrite::Prefix(prefix))),
        (
            true,
            Some(RegexMatchAndSubstitute {
                pattern,
                substitution,
            }),
        ) => {
            let pattern = read_regex(required("regex_rewrite.pattern", pattern)?)
                .within("regex_rewrite.pattern")?;
            Ok(Some(PathRewrite::Regex {
                pattern,
                substitution,
            }))
        }
        (false, Some(_)) => Err(Fault::new(
            "regex_rewrite",
            "set together with `prefix_rewrite`",
        )),
    }
}

fn read_stream_duration(message: MaxStreamDuration) -> Read<Option<Duration>> {
    let MaxStreamDuration {
        max_stream_duration,
        grpc_timeout_header_max,
        grpc_timeout_header_offset,
    } = message;
    refuse!(grpc_timeout_header_offset);
    // 0 is no limit, which is what is done without it.
    if optional_duration("max_stream_duration", max_stream_duration)?.is_some_and(|d| !d.is_zero())
    {
        return Err(Fault::not_honoured("max_stream_duration"));
    }
    optional_duration("grpc_timeout_header_max", grpc_timeout_header_max)
}

fn read_specifier(specifier: ClusterSpecifier) -> Read<Vec<WeightedCluster>> {
    let clusters = match specifier {
        ClusterSpecifier::Cluster(name) => vec![WeightedCluster {
            name,
            weight: 1,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
        }],
        ClusterSpecifier::WeightedClusters(weighted) => {
            read_weighted(weighted).within("weighted_clusters")?
        }
        ClusterSpecifier::ClusterHeader(_) => return Err(Fault::not_honoured("cluster_header")),
        ClusterSpecifier::ClusterSpecifierPlugin(_) => {
            return Err(Fault::not_honoured("cluster_specifier_plugin"));
        }
        ClusterSpecifier::InlineClusterSpecifierPlugin(_) => {
            return Err(Fault::not_honoured("inline_cluster_specifier_plugin"));
        }
    };
    if clusters.iter().any(|c| c.name.is_empty()) {
        return Err(Fault::new("cluster", "empty name"));
    }
    Ok(clusters)
}

#[allow(deprecated, reason = "every field must be named, to be refused")]
fn read_weighted(message: pb::WeightedCluster) -> Read<Vec<WeightedCluster>> {
    let pb::WeightedCluster {
        clusters,
        total_weight,
        runtime_key_prefix,
        random_value_specifier,
    } = message;
    refuse!(total_weight, runtime_key_prefix, random_value_specifier);
    let clusters = each("clusters", clusters, read_cluster_weight)?;
    read_weight_sum(clusters.iter().map(|c| c.weight))?;
    Ok(clusters)
}

/// As Envoy: the sum is at least 1 and fits `uint32`.
pub(in crate::codec) fn read_weight_sum(weights: impl Iterator<Item = u32>) -> Read<()> {
    match weights.map(u64::from).sum::<u64>() {
        0 => Err(Fault::new("clusters", "weights sum up to 0")),
        sum if sum > u64::from(u32::MAX) => {
            Err(Fault::new("clusters", "weights sum up to more than 2^32-1"))
        }
        _ => Ok(()),
    }
}

fn read_cluster_weight(message: ClusterWeight) -> Read<WeightedCluster> {
    let ClusterWeight {
        name,
        cluster_header,
        weight,
        metadata_match,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        typed_per_filter_config,
        host_rewrite_specifier,
    } = message;
    refuse!(
        cluster_header,
        metadata_match,
        typed_per_filter_config,
        host_rewrite_specifier
    );
    Ok(WeightedCluster {
        name,
        weight: read_weight("weight", weight)?,
        request_headers: headers::read(
            "request",
            request_headers_to_add,
            request_headers_to_remove,
        )?,
        response_headers: read_response(response_headers_to_add, response_headers_to_remove)?,
    })
}

fn read_response(add: Vec<HeaderValueOption>, remove: Vec<String>) -> Read<HeaderMutations> {
    super::read_response_headers(add, remove)
}

fn read_retry(message: pb::RetryPolicy) -> Read<RetryPolicy> {
    let pb::RetryPolicy {
        retry_on,
        num_retries,
        per_try_timeout,
        per_try_idle_timeout,
        retry_priority,
        retry_host_predicate,
        retry_options_predicates,
        host_selection_retry_max_attempts: _, // a bound on Envoy's search; ours always ends
        retriable_status_codes,
        retry_back_off,
        rate_limited_retry_back_off,
        retriable_headers,
        retriable_request_headers,
        refresh_cluster_on_retry,
    } = message;
    refuse!(
        per_try_idle_timeout,
        retry_priority,
        retry_options_predicates,
        rate_limited_retry_back_off
    );
    refuse!(
        retriable_headers,
        retriable_request_headers,
        refresh_cluster_on_retry
    );
    let (backoff_base, backoff_max) = read_backoff(retry_back_off).within("retry_back_off")?;
    let predicates = each("retry_host_predicate", retry_host_predicate, read_predicate)?;
    Ok(RetryPolicy {
        on: read_conditions(&retry_on)?,
        retries: read_uint(num_retries).unwrap_or(1),
        per_try_timeout: optional_duration("per_try_timeout", per_try_timeout)?
            .filter(|d| !d.is_zero()),
        status_codes: each(
            "retriable_status_codes",
            retriable_status_codes,
            read_status,
        )?,
        backoff_base,
        backoff_max,
        avoid_previous_hosts: !predicates.is_empty(),
    })
}

fn read_conditions(text: &str) -> Read<Vec<RetryOn>> {
    let names = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    names
        .map(|name| {
            let known = CONDITIONS.iter().find(|(_, n)| *n == name).map(|(c, _)| *c);
            known.ok_or_else(|| Fault::new("retry_on", format!("`{name}` is not honoured")))
        })
        .collect()
}

fn read_status(code: u32) -> Read<u16> {
    u16::try_from(code)
        .ok()
        .filter(|c| (100..600).contains(c))
        .ok_or_else(|| Fault::new("", format!("{code} is not a status")))
}

fn read_predicate(message: RetryHostPredicate) -> Read<()> {
    let RetryHostPredicate {
        name: _,
        config_type,
    } = message;
    let retry_host_predicate::ConfigType::TypedConfig(any) = required("typed_config", config_type)?;
    let PreviousHostsPredicate {} = unpack(&any)?;
    Ok(())
}

fn read_backoff(message: Option<RetryBackOff>) -> Read<(Duration, Duration)> {
    let RetryBackOff {
        base_interval,
        max_interval,
    } = message.unwrap_or_default();
    let base = optional_duration("base_interval", base_interval)?.unwrap_or(ENVOY_BACKOFF);
    let max = optional_duration("max_interval", max_interval)?.unwrap_or(base.saturating_mul(10));
    if base.is_zero() || max < base {
        return Err(Fault::new(
            "max_interval",
            "below `base_interval`, or a base of zero",
        ));
    }
    Ok((base, max))
}
