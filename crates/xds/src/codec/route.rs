//! `config.route.v3.RouteConfiguration`: virtual hosts, routes and their conditions.

mod action;
mod forward;

use std::collections::HashSet;

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::config::route::v3::route_match::{
    GrpcRouteMatchOptions, PathSpecifier,
};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};

use super::Dialect;
use super::field::{
    Fault, Read, Within, boolean, each, read_bool, read_uint, refuse, required, uint,
};
use super::headers;
use super::matching::{header, query, read_header, read_query, read_regex, regex};
use crate::model::RouteConfiguration;
use crate::model::route::{
    HeaderMutations, PathMatch, Route, RouteAction, RouteMatch, VirtualHost,
};

pub(super) use forward::read_weight_sum;

/// Envoy's own bound on the body of a direct response, unless a route configuration raises it.
const ENVOY_DIRECT_BODY: usize = 4096;

pub(super) fn write(of: &RouteConfiguration, dialect: &Dialect) -> pb::RouteConfiguration {
    let RouteConfiguration {
        name,
        virtual_hosts,
    } = of;
    let largest = virtual_hosts
        .iter()
        .flat_map(|v| &v.routes)
        .map(direct_body)
        .max()
        .unwrap_or(0);
    pb::RouteConfiguration {
        name: name.clone(),
        virtual_hosts: virtual_hosts
            .iter()
            .map(|v| virtual_host(v, dialect))
            .collect(),
        // A route may arrive before its cluster; an inline table would otherwise be refused as a whole.
        validate_clusters: boolean(false),
        max_direct_response_body_size_bytes: (largest > ENVOY_DIRECT_BODY)
            .then(|| uint(u32::try_from(largest).unwrap_or(u32::MAX)))
            .flatten(),
        ..pb::RouteConfiguration::default()
    }
}

fn direct_body(route: &Route) -> usize {
    match &route.action {
        RouteAction::Direct(direct) => direct.body.len(),
        RouteAction::Forward(_) | RouteAction::Redirect(_) | RouteAction::NonForwarding => 0,
    }
}

fn virtual_host(of: &VirtualHost, dialect: &Dialect) -> pb::VirtualHost {
    let VirtualHost {
        name,
        domains,
        routes,
    } = of;
    pb::VirtualHost {
        name: name.clone(),
        domains: domains.clone(),
        routes: routes.iter().map(|r| route(r, dialect)).collect(),
        ..pb::VirtualHost::default()
    }
}

fn route(of: &Route, dialect: &Dialect) -> pb::Route {
    let Route {
        name,
        matches,
        action,
        request_headers,
        response_headers,
    } = of;
    let (request_headers_to_add, request_headers_to_remove) =
        headers::write(request_headers, dialect);
    let (response_headers_to_add, response_headers_to_remove) =
        headers::write(response_headers, dialect);
    pb::Route {
        name: name.clone(),
        r#match: Some(route_match(matches, dialect)),
        action: Some(action::write(action, request_headers, dialect)),
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        ..pb::Route::default()
    }
}

fn route_match(of: &RouteMatch, dialect: &Dialect) -> pb::RouteMatch {
    let RouteMatch {
        path,
        ignore_path_case,
        headers,
        query: parameters,
        fraction_per_million,
        grpc,
    } = of;
    let path = match (path, dialect) {
        (PathMatch::Prefix(prefix), _) => PathSpecifier::Prefix(prefix.clone()),
        (PathMatch::Exact(path), _) => PathSpecifier::Path(path.clone()),
        (PathMatch::Regex(pattern), _) => PathSpecifier::SafeRegex(regex(pattern)),
        // gRPC has no segment-wise prefix.
        (PathMatch::Segments(prefix), Dialect::Grpc { .. }) => {
            PathSpecifier::SafeRegex(segments_regex(prefix, *ignore_path_case))
        }
        (PathMatch::Segments(prefix), _) => PathSpecifier::PathSeparatedPrefix(prefix.clone()),
    };
    let fraction = |numerator| RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator,
            denominator: DenominatorType::Million as i32,
        }),
        runtime_key: String::new(),
    };
    pb::RouteMatch {
        path_specifier: Some(path),
        case_sensitive: ignore_path_case.then(|| boolean(false)).flatten(),
        headers: headers.iter().map(header).collect(),
        query_parameters: parameters.iter().map(query).collect(),
        runtime_fraction: fraction_per_million.map(fraction),
        grpc: grpc.then_some(GrpcRouteMatchOptions {}),
        ..pb::RouteMatch::default()
    }
}

fn segments_regex(
    prefix: &str,
    ignore_case: bool,
) -> envoy_types::pb::envoy::r#type::matcher::v3::RegexMatcher {
    let flags = if ignore_case { "(?i)" } else { "" };
    regex(&format!("{flags}{}(/.*)?", regex::escape(prefix)))
}

#[allow(deprecated, reason = "every field must be named, to be refused")]
pub(super) fn read(message: pb::RouteConfiguration) -> Read<RouteConfiguration> {
    let pb::RouteConfiguration {
        name,
        virtual_hosts,
        vhds,
        internal_only_headers,
        response_headers_to_add,
        response_headers_to_remove,
        request_headers_to_add,
        request_headers_to_remove,
        most_specific_header_mutations_wins: _, // says nothing while only routes mutate
        validate_clusters,
        max_direct_response_body_size_bytes: _, // the message's own size bounds it
        cluster_specifier_plugins,
        request_mirror_policies,
        ignore_port_in_host_matching,
        vhost_header,
        ignore_path_parameters_in_path_matching,
        typed_per_filter_config,
        metadata: _,
        route_specifiers,
    } = message;
    refuse!(
        vhds,
        internal_only_headers,
        response_headers_to_add,
        response_headers_to_remove
    );
    refuse!(
        request_headers_to_add,
        request_headers_to_remove,
        cluster_specifier_plugins,
        request_mirror_policies
    );
    refuse!(
        ignore_port_in_host_matching,
        vhost_header,
        ignore_path_parameters_in_path_matching
    );
    refuse!(typed_per_filter_config, route_specifiers);
    if read_bool(validate_clusters) == Some(true) {
        return Err(Fault::not_honoured("validate_clusters"));
    }
    let virtual_hosts = each("virtual_hosts", virtual_hosts, read_virtual_host)?;
    check_unique(&virtual_hosts)?;
    Ok(RouteConfiguration {
        name,
        virtual_hosts,
    })
}

/// As Envoy: a domain belongs to one virtual host, and names of virtual hosts are unique.
fn check_unique(hosts: &[VirtualHost]) -> Read<()> {
    let mut names = HashSet::new();
    let mut domains = HashSet::new();
    for (i, host) in hosts.iter().enumerate() {
        if !names.insert(host.name.as_str()) {
            return Err(Fault::new(
                format!("virtual_hosts[{i}].name"),
                format!("`{}` twice", host.name),
            ));
        }
        if let Some(twice) = host.domains.iter().find(|d| !domains.insert(d.as_str())) {
            return Err(Fault::new(
                format!("virtual_hosts[{i}].domains"),
                format!("`{twice}` twice"),
            ));
        }
    }
    Ok(())
}

#[allow(deprecated, reason = "every field must be named, to be refused")]
fn read_virtual_host(message: pb::VirtualHost) -> Read<VirtualHost> {
    let pb::VirtualHost {
        name,
        domains,
        routes,
        matcher,
        require_tls,
        virtual_clusters: _, // statistics only
        rate_limits,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        cors,
        typed_per_filter_config,
        include_request_attempt_count,
        include_attempt_count_in_response,
        retry_policy,
        retry_policy_typed_config,
        hedge_policy,
        include_is_timeout_retry_header,
        per_request_buffer_limit_bytes,
        request_body_buffer_limit,
        request_mirror_policies,
        metadata: _,
        route_specifiers,
    } = message;
    refuse!(
        matcher,
        require_tls,
        rate_limits,
        cors,
        typed_per_filter_config,
        include_request_attempt_count
    );
    refuse!(
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove
    );
    refuse!(
        include_attempt_count_in_response,
        retry_policy,
        retry_policy_typed_config,
        hedge_policy
    );
    refuse!(
        include_is_timeout_retry_header,
        per_request_buffer_limit_bytes,
        request_body_buffer_limit
    );
    refuse!(request_mirror_policies, route_specifiers);
    if domains.is_empty() {
        return Err(Fault::new("domains", "empty"));
    }
    let domains = each("domains", domains, read_domain)?;
    Ok(VirtualHost {
        name,
        domains,
        routes: each("routes", routes, read_route)?,
    })
}

/// Exact, `*.suffix` (any suffix), `prefix*` or `*`.
fn read_domain(domain: String) -> Read<String> {
    let stars = domain.matches('*').count();
    if domain.is_empty()
        || stars > 1
        || (stars == 1 && !domain.starts_with('*') && !domain.ends_with('*'))
    {
        return Err(Fault::new("", format!("`{domain}` is not a domain")));
    }
    Ok(domain.to_ascii_lowercase())
}

#[allow(deprecated, reason = "every field must be named, to be refused")]
fn read_route(message: pb::Route) -> Read<Route> {
    let pb::Route {
        name,
        r#match,
        metadata: _,
        decorator: _, // the span's name
        typed_per_filter_config,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        tracing: _, // sampling; no spans are made here
        per_request_buffer_limit_bytes,
        stat_prefix: _,
        request_body_buffer_limit,
        route_specifiers,
        action,
    } = message;
    refuse!(
        typed_per_filter_config,
        per_request_buffer_limit_bytes,
        request_body_buffer_limit,
        route_specifiers
    );
    let matches = read_match(required("match", r#match)?).within("match")?;
    let request_headers =
        headers::read("request", request_headers_to_add, request_headers_to_remove)?;
    let response_headers =
        read_response_headers(response_headers_to_add, response_headers_to_remove)?;
    Ok(Route {
        name,
        matches,
        action: action::read(required("action", action)?)?,
        request_headers,
        response_headers,
    })
}

fn read_response_headers(
    add: Vec<envoy_types::pb::envoy::config::core::v3::HeaderValueOption>,
    remove: Vec<String>,
) -> Read<HeaderMutations> {
    let mutations = headers::read("response", add, remove)?;
    match mutations.add.iter().find(|a| a.name.starts_with(':')) {
        Some(pseudo) => Err(Fault::new(
            "response_headers_to_add",
            format!("`{}` may not be changed", pseudo.name),
        )),
        None => Ok(mutations),
    }
}

fn read_match(message: pb::RouteMatch) -> Read<RouteMatch> {
    let pb::RouteMatch {
        case_sensitive,
        runtime_fraction,
        headers,
        query_parameters,
        cookies,
        grpc,
        tls_context,
        dynamic_metadata,
        filter_state,
        path_specifier,
    } = message;
    refuse!(cookies, tls_context, dynamic_metadata, filter_state);
    let path = read_path(required("path_specifier", path_specifier)?)?;
    let ignore_case = read_bool(case_sensitive) == Some(false);
    // A regex stays case-sensitive in Envoy.
    let ignore_path_case = ignore_case && !matches!(path, PathMatch::Regex(_));
    Ok(RouteMatch {
        path,
        ignore_path_case,
        headers: each("headers", headers, read_header)?,
        query: each("query_parameters", query_parameters, read_query)?,
        fraction_per_million: runtime_fraction
            .map(read_fraction)
            .transpose()
            .within("runtime_fraction")?,
        grpc: grpc.is_some(),
    })
}

fn read_path(specifier: PathSpecifier) -> Read<PathMatch> {
    Ok(match specifier {
        PathSpecifier::Prefix(prefix) => PathMatch::Prefix(prefix),
        PathSpecifier::Path(path) => PathMatch::Exact(path),
        PathSpecifier::SafeRegex(matcher) => {
            PathMatch::Regex(read_regex(matcher).within("safe_regex")?)
        }
        PathSpecifier::PathSeparatedPrefix(prefix) => {
            if prefix.len() < 2 || prefix.ends_with('/') || prefix.contains(['?', '#']) {
                return Err(Fault::new(
                    "path_separated_prefix",
                    format!("`{prefix}` is not a path without a trailing slash"),
                ));
            }
            PathMatch::Segments(prefix)
        }
        PathSpecifier::ConnectMatcher(_) => return Err(Fault::not_honoured("connect_matcher")),
        PathSpecifier::PathMatchPolicy(_) => return Err(Fault::not_honoured("path_match_policy")),
    })
}

fn read_fraction(fraction: RuntimeFractionalPercent) -> Read<u32> {
    // There is no runtime layer here, so the default value is the value.
    let RuntimeFractionalPercent {
        default_value,
        runtime_key: _,
    } = fraction;
    let FractionalPercent {
        numerator,
        denominator,
    } = required("default_value", default_value)?;
    let scale = match DenominatorType::try_from(denominator) {
        Ok(DenominatorType::Hundred) => 10_000,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Million) => 1,
        Err(_) => return Err(Fault::not_honoured("denominator")),
    };
    Ok(numerator.saturating_mul(scale).min(1_000_000))
}

pub(super) fn read_weight(
    field: &str,
    weight: Option<envoy_types::pb::google::protobuf::UInt32Value>,
) -> Read<u32> {
    read_uint(weight).ok_or_else(|| Fault::missing(field))
}
