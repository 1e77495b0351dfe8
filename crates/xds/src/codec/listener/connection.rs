//! `HttpConnectionManager`: where routes come from, which RBAC filters stand before them, and the settings
//! that make Envoy do what our proxy does by itself.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonOptions,
};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac as RbacFilter;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation,
    SetCurrentClientCertDetails, UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use envoy_types::pb::google::protobuf::Any;
use prost::Name;

use super::tcp::non_empty;
use crate::codec::Dialect;
use crate::codec::field::{
    Fault, Read, Within, ads, boolean, duration, each, optional_duration, pack, read_ads,
    read_bool, refuse, required, uint, unpack,
};
use crate::codec::{rbac, route};
use crate::model::Rbac;
use crate::model::listener::{ForwardClientCert, HttpConnection, RouteSource};
use crate::model::rbac::Permission;

const ROUTER: &str = "envoy.filters.http.router";
const RBAC: &str = "envoy.filters.http.rbac";

/// Streams that a client outside the mesh may have open on one connection (contract section 8).
const OUTSIDE_STREAMS: u32 = 100;

pub(super) fn write(of: &HttpConnection, dialect: &Dialect) -> pb::HttpConnectionManager {
    let HttpConnection {
        stat_prefix,
        routes,
        rbac: policies,
        forward_client_cert,
    } = of;
    let route_specifier = match routes {
        RouteSource::Inline(table) => RouteSpecifier::RouteConfig(route::write(table, dialect)),
        RouteSource::Rds(name) => RouteSpecifier::Rds(pb::Rds {
            config_source: ads(),
            route_config_name: name.clone(),
        }),
    };
    let mut message = pb::HttpConnectionManager {
        stat_prefix: stat_prefix.clone(),
        route_specifier: Some(route_specifier),
        ..pb::HttpConnectionManager::default()
    };
    if let Dialect::Grpc { .. } = dialect {
        // gRPC refuses an RBAC filter on the client's side and most settings of connections.
        message.http_filters = vec![router()];
        return message;
    }
    message.http_filters = policies.iter().map(rbac_filter).chain([router()]).collect();
    message.normalize_path = boolean(true);
    message.path_with_escaped_slashes_action = PathWithEscapedSlashesAction::KeepUnchanged as i32;
    if *forward_client_cert == ForwardClientCert::SanitizeSet {
        message.forward_client_cert_details = ForwardClientCertDetails::SanitizeSet as i32;
        message.set_current_client_cert_details = Some(SetCurrentClientCertDetails {
            subject: boolean(true),
            uri: true,
            ..SetCurrentClientCertDetails::default()
        });
    }
    if let Dialect::Envoy { .. } = dialect {
        write_envoy(&mut message, policies);
    }
    message
}

/// What our proxy does without being told, spelled out for Envoy.
fn write_envoy(message: &mut pb::HttpConnectionManager, policies: &[Rbac]) {
    message.stat_prefix = non_empty(&message.stat_prefix);
    message.use_remote_address = boolean(true);
    message.server_header_transformation = ServerHeaderTransformation::PassThrough as i32;
    message.stream_idle_timeout = duration(Duration::ZERO);
    message.strip_trailing_host_dot = true;
    message.http_protocol_options = Some(Http1ProtocolOptions {
        accept_http_10: true,
        ..Http1ProtocolOptions::default()
    });
    message.http2_protocol_options = Some(Http2ProtocolOptions {
        max_concurrent_streams: uint(OUTSIDE_STREAMS),
        ..Http2ProtocolOptions::default()
    });
    message.upgrade_configs = vec![UpgradeConfig {
        upgrade_type: "websocket".to_owned(),
        ..UpgradeConfig::default()
    }];
    if policies.iter().any(mentions_paths) {
        // Ambiguous paths are refused where a policy mentions paths (semantics section 8).
        message.path_with_escaped_slashes_action =
            PathWithEscapedSlashesAction::RejectRequest as i32;
    }
}

fn mentions_paths(policy: &Rbac) -> bool {
    fn mentions(permission: &Permission) -> bool {
        match permission {
            Permission::Path(_) | Permission::PathTemplate(_) => true,
            Permission::Header(header) => header.name == ":path",
            Permission::All(all) | Permission::OneOf(all) => all.iter().any(mentions),
            Permission::Not(inner) => mentions(inner),
            Permission::Any
            | Permission::DestinationPort(_)
            | Permission::DestinationIp(_)
            | Permission::ServerName(_) => false,
        }
    }
    policy
        .policies
        .iter()
        .flat_map(|p| &p.permissions)
        .any(mentions)
}

fn http_filter(name: &str, any: Any) -> pb::HttpFilter {
    pb::HttpFilter {
        name: name.to_owned(),
        config_type: Some(ConfigType::TypedConfig(any)),
        ..pb::HttpFilter::default()
    }
}

fn router() -> pb::HttpFilter {
    http_filter(
        ROUTER,
        pack(&Router {
            suppress_envoy_headers: true,
            ..Router::default()
        }),
    )
}

fn rbac_filter(of: &Rbac) -> pb::HttpFilter {
    http_filter(
        RBAC,
        pack(&RbacFilter {
            rules: Some(rbac::write(of)),
            ..RbacFilter::default()
        }),
    )
}

#[allow(deprecated, reason = "every field must be named, to be refused")]
pub(super) fn read(any: &Any) -> Read<HttpConnection> {
    let pb::HttpConnectionManager {
        codec_type,
        stat_prefix,
        http_filters,
        add_user_agent,
        tracing,
        common_http_protocol_options,
        http1_safe_max_connection_duration: _,
        http_protocol_options,
        http2_protocol_options,
        http3_protocol_options,
        server_name,
        server_header_transformation: _, // our proxy leaves the header alone
        scheme_header_transformation,
        max_request_headers_kb,
        stream_idle_timeout,
        stream_flush_timeout,
        request_timeout,
        request_headers_timeout,
        drain_timeout,
        drain_timeout_jitter,
        delayed_close_timeout,
        access_log,
        access_log_flush_interval,
        flush_access_log_on_new_request,
        access_log_options,
        use_remote_address: _, // who the client is does not depend on headers here
        xff_num_trusted_hops,
        original_ip_detection_extensions,
        early_header_mutation_extensions,
        internal_address_config: _, // only Envoy's own x-envoy-internal
        skip_xff_append: _,         // x-forwarded-for is not written
        via,
        generate_request_id: _, // a missing x-request-id is always made
        preserve_external_request_id: _,
        always_set_request_id_in_response,
        forward_client_cert_details,
        set_current_client_cert_details: _, // always By, Hash, Subject, URI
        forward_client_cert_matcher,
        proxy_100_continue: _, // always relayed
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        upgrade_configs,
        normalize_path,
        merge_slashes,
        path_with_escaped_slashes_action,
        request_id_extension,
        local_reply_config,
        strip_matching_host_port,
        stream_error_on_invalid_http_message,
        path_normalization_options,
        strip_trailing_host_dot: _, // always, names are canonical
        proxy_status_config,
        typed_header_validation_config,
        append_x_forwarded_port,
        append_local_overload: _,
        add_proxy_protocol_connection_state: _, // only after a PROXY protocol filter
        forward_proto_config,
        route_specifier,
        strip_port_mode,
    } = unpack(any)?;
    refuse!(
        codec_type,
        add_user_agent,
        tracing,
        http3_protocol_options,
        server_name,
        scheme_header_transformation
    );
    refuse!(
        max_request_headers_kb,
        stream_flush_timeout,
        request_timeout,
        request_headers_timeout,
        drain_timeout
    );
    refuse!(
        drain_timeout_jitter,
        delayed_close_timeout,
        access_log,
        access_log_flush_interval
    );
    refuse!(
        flush_access_log_on_new_request,
        access_log_options,
        xff_num_trusted_hops
    );
    refuse!(
        original_ip_detection_extensions,
        early_header_mutation_extensions,
        via
    );
    refuse!(
        always_set_request_id_in_response,
        forward_client_cert_matcher
    );
    refuse!(
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        merge_slashes,
        request_id_extension
    );
    refuse!(
        local_reply_config,
        strip_matching_host_port,
        stream_error_on_invalid_http_message
    );
    refuse!(
        path_normalization_options,
        proxy_status_config,
        typed_header_validation_config
    );
    refuse!(
        append_x_forwarded_port,
        forward_proto_config,
        strip_port_mode
    );
    read_protocols(
        common_http_protocol_options,
        http_protocol_options,
        http2_protocol_options,
    )?;
    read_fixed(
        stream_idle_timeout,
        normalize_path,
        path_with_escaped_slashes_action,
    )?;
    each("upgrade_configs", upgrade_configs, read_upgrade)?;
    Ok(HttpConnection {
        stat_prefix,
        routes: read_routes(required("route_specifier", route_specifier)?)?,
        rbac: read_filters(http_filters).within("http_filters")?,
        forward_client_cert: read_forward(forward_client_cert_details)?,
    })
}

/// Connection settings are the proxy's own; only what says the default is taken.
fn read_protocols(
    common_http_protocol_options: Option<CommonOptions>,
    http1: Option<Http1ProtocolOptions>,
    http2: Option<Http2ProtocolOptions>,
) -> Read<()> {
    let common = common_http_protocol_options.unwrap_or_default();
    if common != CommonOptions::default() {
        return Err(Fault::not_honoured("common_http_protocol_options"));
    }
    let http1 = http1.unwrap_or_default();
    if (Http1ProtocolOptions {
        accept_http_10: false,
        ..http1
    }) != Http1ProtocolOptions::default()
    {
        return Err(Fault::not_honoured("http_protocol_options"));
    }
    if http2.unwrap_or_default() != Http2ProtocolOptions::default() {
        return Err(Fault::not_honoured("http2_protocol_options"));
    }
    Ok(())
}

/// Settings that our proxy has one value for: it may be named, another is refused.
fn read_fixed(
    stream_idle_timeout: Option<envoy_types::pb::google::protobuf::Duration>,
    normalize_path: Option<envoy_types::pb::google::protobuf::BoolValue>,
    escaped: i32,
) -> Read<()> {
    if optional_duration("stream_idle_timeout", stream_idle_timeout)?.is_some_and(|d| !d.is_zero())
    {
        return Err(Fault::not_honoured("stream_idle_timeout"));
    }
    if read_bool(normalize_path) == Some(false) {
        return Err(Fault::new("normalize_path", "`false` is not honoured"));
    }
    match PathWithEscapedSlashesAction::try_from(escaped) {
        Ok(
            PathWithEscapedSlashesAction::ImplementationSpecificDefault
            | PathWithEscapedSlashesAction::KeepUnchanged,
        ) => Ok(()),
        _ => Err(Fault::not_honoured("path_with_escaped_slashes_action")),
    }
}

/// Every upgrade is relayed, so naming one is fine and forbidding one is not.
fn read_upgrade(config: UpgradeConfig) -> Read<()> {
    let UpgradeConfig {
        upgrade_type: _,
        filters,
        enabled,
    } = config;
    refuse!(filters);
    if read_bool(enabled) == Some(false) {
        Err(Fault::new("enabled", "`false` is not honoured"))
    } else {
        Ok(())
    }
}

fn read_forward(details: i32) -> Read<ForwardClientCert> {
    match ForwardClientCertDetails::try_from(details) {
        Ok(ForwardClientCertDetails::Sanitize) => Ok(ForwardClientCert::Sanitize),
        Ok(ForwardClientCertDetails::SanitizeSet) => Ok(ForwardClientCert::SanitizeSet),
        _ => Err(Fault::not_honoured("forward_client_cert_details")),
    }
}

fn read_routes(specifier: RouteSpecifier) -> Read<RouteSource> {
    match specifier {
        RouteSpecifier::Rds(pb::Rds {
            config_source,
            route_config_name,
        }) => {
            read_ads(config_source).within("rds")?;
            if route_config_name.is_empty() {
                return Err(Fault::missing("rds.route_config_name"));
            }
            Ok(RouteSource::Rds(route_config_name))
        }
        RouteSpecifier::RouteConfig(table) => Ok(RouteSource::Inline(
            route::read(table).within("route_config")?,
        )),
        RouteSpecifier::ScopedRoutes(_) => Err(Fault::not_honoured("scoped_routes")),
    }
}

fn read_filters(filters: Vec<pb::HttpFilter>) -> Read<Vec<Rbac>> {
    let mut configs = each("", filters, |filter| {
        let pb::HttpFilter {
            name,
            is_optional,
            disabled,
            config_type,
        } = filter;
        match config_type {
            Some(ConfigType::TypedConfig(any)) => Ok((name, any, is_optional, disabled)),
            Some(ConfigType::ConfigDiscovery(_)) => Err(Fault::not_honoured("config_discovery")),
            None => Err(Fault::new(
                "",
                format!("filter `{name}` has no configuration"),
            )),
        }
    })?;
    match configs.pop() {
        Some((_, any, _, false)) if any.type_url == Router::type_url() => {
            read_router(unpack(&any)?).within("router")?
        }
        _ => return Err(Fault::new("", "the last filter is not the router")),
    }
    let mut found = Vec::new();
    for (i, (name, any, is_optional, disabled)) in configs.into_iter().enumerate() {
        let known = any.type_url == RbacFilter::type_url();
        if disabled || (!known && is_optional) {
            // gRFC A39: an optional filter that is not known is skipped; a disabled one does nothing.
            continue;
        }
        if !known {
            return Err(Fault::new(
                format!("[{i}]"),
                format!("filter `{name}` is not honoured"),
            ));
        }
        found.push(read_rbac(&any).within(&format!("[{i}]"))?);
    }
    Ok(found)
}

#[allow(deprecated, reason = "every field must be named, to be refused")]
fn read_router(message: Router) -> Read<()> {
    let Router {
        dynamic_stats: _,
        start_child_span: _,
        upstream_log,
        upstream_log_options: _,
        suppress_envoy_headers: _, // they are never written
        strict_check_headers,
        respect_expected_rq_timeout,
        suppress_grpc_request_failure_code_stats: _,
        upstream_http_filters,
        reject_connect_request_early_data: _,
    } = message;
    refuse!(
        upstream_log,
        strict_check_headers,
        respect_expected_rq_timeout,
        upstream_http_filters
    );
    Ok(())
}

fn read_rbac(any: &Any) -> Read<Rbac> {
    let RbacFilter {
        rules,
        rules_stat_prefix: _,
        matcher,
        shadow_rules,
        shadow_matcher,
        shadow_rules_stat_prefix: _,
        track_per_rule_stats: _,
    } = unpack(any)?;
    refuse!(matcher, shadow_rules, shadow_matcher);
    rbac::read(required("rules", rules)?).within("rules")
}
