//! Forwarding: where to, for how long, and what is rewritten.

mod clusters;
mod retry;

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::RoutingPriority;
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    HostRewriteSpecifier, MaxStreamDuration,
};
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use envoy_types::pb::google::protobuf::Duration as PbDuration;

pub(in crate::codec) use self::clusters::read_weight_sum;
use crate::codec::Dialect;
use crate::codec::field::{Fault, Read, Within, duration, optional_duration, refuse, required};
use crate::codec::headers::is_authority;
use crate::codec::matching::{read_regex, regex};
use crate::model::route::{AppendAction, Forward, HeaderMutations, PathRewrite};

/// Envoy's default when a route says nothing.
const ENVOY_TIMEOUT: Duration = Duration::from_secs(15);

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
        cluster_specifier: Some(clusters::write(clusters, dialect)),
        prefix_rewrite,
        regex_rewrite,
        host_rewrite_specifier: authority.map(HostRewriteSpecifier::HostRewriteLiteral),
        timeout: duration(timeout.unwrap_or_default()),
        max_stream_duration: stream_duration(*timeout, *grpc_timeout_max, dialect),
        max_grpc_timeout: envoy_grpc_timeout(*timeout, *grpc_timeout_max, dialect),
        retry_policy: retry::write(retry.as_ref(), dialect),
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
        clusters: clusters::read(required("cluster_specifier", cluster_specifier)?)?,
        timeout: (!timeout.is_zero()).then_some(timeout),
        grpc_timeout_max: stream.or(max_grpc),
        retry: retry_policy
            .map(retry::read)
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
