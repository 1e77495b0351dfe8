//! `extensions.upstreams.http.v3.HttpProtocolOptions`: what is spoken to a cluster's endpoints.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonOptions, Metadata,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
    explicit_http_config::ProtocolConfig,
};
use envoy_types::pb::google::protobuf::Any;

use super::STREAMS;
use crate::codec::Dialect;
use crate::codec::field::{
    Fault, Read, Within, duration, optional_duration, pack, read_uint, refuse, uint, unpack,
};
use crate::codec::metadata;
use crate::model::cluster::{HttpProtocol, Limits};

const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Envoy's largest.
const MAX_STREAMS: u32 = i32::MAX as u32;

pub(super) fn write(
    message: &mut pb::Cluster,
    facts: &mut metadata::Builder,
    protocol: HttpProtocol,
    limits: &Limits,
    idle_timeout: Option<Duration>,
    meshed: bool,
    dialect: &Dialect,
) {
    let http2 = Http2ProtocolOptions {
        max_concurrent_streams: uint(limits.max_concurrent_streams.clamp(1, MAX_STREAMS)),
        ..Http2ProtocolOptions::default()
    };
    let protocol = if meshed {
        HttpProtocol::Http2
    } else {
        protocol
    };
    let explicit = |config| {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(config),
        })
    };
    let upstream = match protocol {
        HttpProtocol::Http1 => {
            // Mesh peers speak HTTP/2 all the same, so the bound still means something.
            if *dialect == Dialect::Tasuki && limits.max_concurrent_streams != MAX_STREAMS {
                facts.set(
                    STREAMS.0,
                    STREAMS.1,
                    metadata::number(limits.max_concurrent_streams),
                );
            }
            explicit(ProtocolConfig::HttpProtocolOptions(
                Http1ProtocolOptions::default(),
            ))
        }
        HttpProtocol::Http2 => explicit(ProtocolConfig::Http2ProtocolOptions(http2)),
        HttpProtocol::Downstream => {
            UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                http_protocol_options: Some(Http1ProtocolOptions::default()),
                http2_protocol_options: Some(http2),
                http3_protocol_options: None,
            })
        }
    };
    let common = CommonOptions {
        idle_timeout: idle_timeout.and_then(duration),
        max_requests_per_connection: (limits.max_requests_per_connection != 0)
            .then(|| uint(limits.max_requests_per_connection))
            .flatten(),
        ..CommonOptions::default()
    };
    let options = HttpProtocolOptions {
        common_http_protocol_options: (common != CommonOptions::default()).then_some(common),
        upstream_protocol_options: Some(upstream),
        ..HttpProtocolOptions::default()
    };
    message
        .typed_extension_protocol_options
        .insert(OPTIONS.to_owned(), pack(&options));
}

pub(super) struct Options {
    pub(super) protocol: HttpProtocol,
    pub(super) idle_timeout: Option<Duration>,
}

pub(super) fn read(
    typed: HashMap<String, Any>,
    facts: Option<&Metadata>,
    limits: &mut Limits,
) -> Read<Options> {
    let mut options = Options {
        protocol: HttpProtocol::Http1,
        idle_timeout: None,
    };
    for (key, any) in typed {
        if key != OPTIONS {
            return Err(Fault::new(
                "typed_extension_protocol_options",
                format!("`{key}` is not honoured"),
            ));
        }
        options = read_options(&any, limits).within("typed_extension_protocol_options")?;
    }
    if let Some(value) = metadata::find(facts, STREAMS.0, STREAMS.1) {
        limits.max_concurrent_streams =
            metadata::read_number("metadata.tasuki.maxConcurrentStreams", value)?;
    }
    Ok(options)
}

fn read_options(any: &Any, limits: &mut Limits) -> Read<Options> {
    let HttpProtocolOptions {
        common_http_protocol_options,
        upstream_http_protocol_options,
        http_filters,
        header_validation_config,
        outlier_detection,
        request_mirror_policies,
        hash_policy,
        retry_policy,
        upstream_protocol_options,
    } = unpack(any)?;
    refuse!(
        upstream_http_protocol_options,
        http_filters,
        header_validation_config,
        outlier_detection
    );
    refuse!(request_mirror_policies, hash_policy, retry_policy);
    let idle_timeout =
        read_common(common_http_protocol_options, limits).within("common_http_protocol_options")?;
    let (protocol, http1, http2) = match upstream_protocol_options {
        None => return Err(Fault::missing("upstream_protocol_options")),
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config,
        })) => match protocol_config {
            None => (HttpProtocol::Http1, None, None),
            Some(ProtocolConfig::HttpProtocolOptions(http1)) => {
                (HttpProtocol::Http1, Some(http1), None)
            }
            Some(ProtocolConfig::Http2ProtocolOptions(http2)) => {
                (HttpProtocol::Http2, None, Some(http2))
            }
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                return Err(Fault::not_honoured("http3_protocol_options"));
            }
        },
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => {
            let UseDownstreamHttpConfig {
                http_protocol_options,
                http2_protocol_options,
                http3_protocol_options,
            } = config;
            refuse!(http3_protocol_options);
            (
                HttpProtocol::Downstream,
                http_protocol_options,
                http2_protocol_options,
            )
        }
        Some(UpstreamProtocolOptions::AutoConfig(_)) => {
            return Err(Fault::not_honoured("auto_config"));
        }
    };
    if http1.is_some_and(|options| options != Http1ProtocolOptions::default()) {
        return Err(Fault::not_honoured("http_protocol_options"));
    }
    if let Some(http2) = http2 {
        read_http2(http2, limits).within("http2_protocol_options")?;
    }
    Ok(Options {
        protocol,
        idle_timeout,
    })
}

fn read_common(common: Option<CommonOptions>, limits: &mut Limits) -> Read<Option<Duration>> {
    let CommonOptions {
        idle_timeout,
        max_connection_duration,
        max_connection_duration_jitter,
        max_headers_count,
        max_response_headers_kb,
        max_stream_duration,
        headers_with_underscores_action,
        max_requests_per_connection,
    } = common.unwrap_or_default();
    refuse!(
        max_connection_duration,
        max_connection_duration_jitter,
        max_headers_count,
        max_response_headers_kb
    );
    refuse!(max_stream_duration, headers_with_underscores_action);
    limits.max_requests_per_connection = read_uint(max_requests_per_connection).unwrap_or(0);
    optional_duration("idle_timeout", idle_timeout)
}

fn read_http2(options: Http2ProtocolOptions, limits: &mut Limits) -> Read<()> {
    let rest = Http2ProtocolOptions {
        max_concurrent_streams: None,
        ..options.clone()
    };
    if rest != Http2ProtocolOptions::default() {
        return Err(Fault::new("", "only `max_concurrent_streams` is honoured"));
    }
    match read_uint(options.max_concurrent_streams) {
        None => limits.max_concurrent_streams = MAX_STREAMS,
        Some(streams @ 1..=MAX_STREAMS) => limits.max_concurrent_streams = streams,
        Some(_) => {
            return Err(Fault::new(
                "max_concurrent_streams",
                "not between 1 and 2^31-1",
            ));
        }
    }
    Ok(())
}
