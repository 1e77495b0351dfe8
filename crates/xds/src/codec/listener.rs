//! `config.listener.v3.Listener`: filter chains, and the API listener of on-demand names.

mod connection;
mod tcp;

use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::envoy::config::listener::v3::{filter, listener_filter};
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::Any;
use prost::Name;

use super::Dialect;
use super::field::{
    Fault, Read, Within, each, pack, read_bool, read_port, read_uint, refuse, required, uint,
};
use super::metadata::{self, TASUKI};
use super::{endpoint, tls};
use crate::model::Listener;
use crate::model::listener::{ChainMatch, DeclaredProtocol, Filter, FilterChain, Transport};

const TLS_INSPECTOR: &str = "envoy.filters.listener.tls_inspector";
const HTTP_MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// Names in our metadata.
const PROTOCOLS: [(DeclaredProtocol, &str); 6] = [
    (DeclaredProtocol::Auto, "auto"),
    (DeclaredProtocol::Http, "http"),
    (DeclaredProtocol::Http2, "http2"),
    (DeclaredProtocol::Grpc, "grpc"),
    (DeclaredProtocol::Tcp, "tcp"),
    (DeclaredProtocol::Tls, "tls"),
];

pub(super) fn write(of: &Listener, dialect: &Dialect) -> pb::Listener {
    let Listener {
        name,
        address,
        protocol,
        workload,
        api,
        chains,
        default_chain,
    } = of;
    let mut facts = metadata::Builder::default();
    if *dialect == Dialect::Tasuki {
        if *protocol != DeclaredProtocol::Auto {
            let text = PROTOCOLS
                .iter()
                .find(|(p, _)| p == protocol)
                .map_or("auto", |(_, text)| text);
            facts.set(TASUKI, "protocol", metadata::text(text));
        }
        if let Some(workload) = workload {
            facts.set(TASUKI, "workload", metadata::workload(workload));
        }
    }
    // Envoy silently drops a listener that has `api_listener`; gRPC reads nothing else.
    let api = api
        .as_ref()
        .filter(|_| !matches!(dialect, Dialect::Envoy { .. }));
    let mut message = pb::Listener {
        name: name.clone(),
        metadata: facts.build(),
        api_listener: api.map(|api| pb::ApiListener {
            api_listener: Some(pack(&connection::write(api, dialect))),
        }),
        ..pb::Listener::default()
    };
    if !matches!(dialect, Dialect::Grpc { .. }) {
        message.address = address.and_then(endpoint::socket_address);
        message.filter_chains = chains
            .iter()
            .filter_map(|c| filter_chain(c, dialect))
            .collect();
        message.default_filter_chain = default_chain
            .as_ref()
            .and_then(|c| filter_chain(c, dialect));
        message.listener_filters = listener_filters(chains, dialect);
    }
    message
}

/// Envoy sees the ClientHello only through a listener filter; we always look.
fn listener_filters(chains: &[FilterChain], dialect: &Dialect) -> Vec<pb::ListenerFilter> {
    let needs_hello = |c: &FilterChain| {
        c.matches.transport != Transport::Any
            || !c.matches.alpn.is_empty()
            || !c.matches.server_names.is_empty()
    };
    if *dialect == Dialect::Tasuki || !chains.iter().any(needs_hello) {
        return Vec::new();
    }
    vec![pb::ListenerFilter {
        name: TLS_INSPECTOR.to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(pack(
            &TlsInspector::default(),
        ))),
        ..pb::ListenerFilter::default()
    }]
}

/// `None` where the client cannot have the chain's certificate.
fn filter_chain(of: &FilterChain, dialect: &Dialect) -> Option<pb::FilterChain> {
    let FilterChain {
        name,
        matches,
        tls,
        filter,
    } = of;
    let transport_socket = match tls {
        None => None,
        Some(tls) => Some(tls::server(tls, dialect)?),
    };
    let filters = match filter {
        Filter::Http(http) => vec![network_filter(
            HTTP_MANAGER,
            pack(&connection::write(http, dialect)),
        )],
        Filter::Tcp(tcp) => tcp::write(tcp, dialect),
    };
    Some(pb::FilterChain {
        name: name.clone(),
        filter_chain_match: (*matches != ChainMatch::default()).then(|| chain_match(matches)),
        transport_socket,
        filters,
        ..pb::FilterChain::default()
    })
}

fn network_filter(name: &str, any: Any) -> pb::Filter {
    pb::Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(any)),
    }
}

fn chain_match(of: &ChainMatch) -> pb::FilterChainMatch {
    let ChainMatch {
        destination_port,
        transport,
        alpn,
        server_names,
    } = of;
    let transport = match transport {
        Transport::Any => "",
        Transport::Plaintext => "raw_buffer",
        Transport::Tls => "tls",
    };
    pb::FilterChainMatch {
        destination_port: destination_port.map(u32::from).and_then(uint),
        transport_protocol: transport.to_owned(),
        application_protocols: alpn.clone(),
        server_names: server_names.clone(),
        ..pb::FilterChainMatch::default()
    }
}

#[allow(deprecated, reason = "every field must be named, to be refused")]
pub(super) fn read(message: pb::Listener) -> Read<Listener> {
    let pb::Listener {
        name,
        address,
        additional_addresses,
        stat_prefix: _,
        stats_matcher: _,
        filter_chains,
        fcds_config,
        filter_chain_matcher,
        use_original_dst: _, // the original destination is always looked at
        default_filter_chain,
        per_connection_buffer_limit_bytes: _, // buffers are bounded by the proxy's own settings
        per_connection_buffer_high_watermark_timeout,
        metadata,
        deprecated_v1,
        drain_type,
        listener_filters,
        listener_filters_timeout,
        continue_on_listener_filters_timeout,
        transparent,
        freebind,
        socket_options,
        tcp_fast_open_queue_length,
        traffic_direction: _, // says nothing that the name does not
        udp_listener_config,
        api_listener,
        connection_balance_config,
        reuse_port: _,
        enable_reuse_port: _, // always
        access_log,
        tcp_backlog_size: _,
        max_connections_to_accept_per_socket_event: _,
        bind_to_port,
        enable_mptcp,
        ignore_global_conn_limit,
        bypass_overload_manager,
        tcp_keepalive,
        listener_specifier,
    } = message;
    refuse!(
        additional_addresses,
        fcds_config,
        filter_chain_matcher,
        per_connection_buffer_high_watermark_timeout
    );
    refuse!(
        deprecated_v1,
        drain_type,
        listener_filters_timeout,
        continue_on_listener_filters_timeout,
        transparent
    );
    refuse!(
        freebind,
        socket_options,
        tcp_fast_open_queue_length,
        udp_listener_config,
        connection_balance_config
    );
    refuse!(
        access_log,
        enable_mptcp,
        ignore_global_conn_limit,
        bypass_overload_manager,
        tcp_keepalive
    );
    refuse!(listener_specifier);
    if read_bool(bind_to_port) == Some(false) {
        return Err(Fault::new("bind_to_port", "`false` is not honoured"));
    }
    each("listener_filters", listener_filters, read_listener_filter)?;
    let address = match address {
        None => None,
        Some(address) => Some(endpoint::read_socket_address(Some(address)).within("address")?),
    };
    let facts = metadata.as_ref();
    let workload = metadata::find(facts, TASUKI, "workload")
        .map(metadata::read_workload)
        .transpose();
    Ok(Listener {
        name,
        address,
        protocol: read_protocol(facts)?,
        workload: workload.within("metadata.tasuki.workload")?,
        api: api_listener
            .map(read_api)
            .transpose()
            .within("api_listener")?,
        chains: each("filter_chains", filter_chains, read_chain)?,
        default_chain: default_filter_chain
            .map(read_chain)
            .transpose()
            .within("default_filter_chain")?,
    })
}

fn read_protocol(
    facts: Option<&envoy_types::pb::envoy::config::core::v3::Metadata>,
) -> Read<DeclaredProtocol> {
    let Some(value) = metadata::find(facts, TASUKI, "protocol") else {
        return Ok(DeclaredProtocol::Auto);
    };
    let text = metadata::read_text("metadata.tasuki.protocol", value)?;
    let known = PROTOCOLS
        .iter()
        .find(|(_, name)| *name == text)
        .map(|(protocol, _)| *protocol);
    known.ok_or_else(|| Fault::new("metadata.tasuki.protocol", format!("`{text}` is not known")))
}

fn read_api(api: pb::ApiListener) -> Read<crate::model::listener::HttpConnection> {
    let pb::ApiListener { api_listener } = api;
    connection::read(&required("api_listener", api_listener)?)
}

/// The inspectors say what is done anyway; any other listener filter would change what arrives.
fn read_listener_filter(message: pb::ListenerFilter) -> Read<()> {
    let pb::ListenerFilter {
        name,
        filter_disabled,
        config_type,
    } = message;
    refuse!(filter_disabled);
    let known = [
        TlsInspector::type_url(),
        OriginalDst::type_url(),
        HttpInspector::type_url(),
    ];
    match config_type {
        Some(listener_filter::ConfigType::TypedConfig(any)) if known.contains(&any.type_url) => {
            Ok(())
        }
        _ => Err(Fault::new(
            "",
            format!("listener filter `{name}` is not honoured"),
        )),
    }
}

#[allow(deprecated, reason = "every field must be named, to be refused")]
fn read_chain(message: pb::FilterChain) -> Read<FilterChain> {
    let pb::FilterChain {
        filter_chain_match,
        filters,
        use_proxy_proto,
        metadata: _,
        transport_socket,
        transport_socket_connect_timeout,
        name,
    } = message;
    refuse!(transport_socket_connect_timeout);
    if read_bool(use_proxy_proto) == Some(true) {
        return Err(Fault::not_honoured("use_proxy_proto"));
    }
    let matches = filter_chain_match
        .map(read_chain_match)
        .transpose()
        .within("filter_chain_match")?;
    let tls = transport_socket
        .map(tls::read_server)
        .transpose()
        .within("transport_socket")?;
    Ok(FilterChain {
        name,
        matches: matches.unwrap_or_default(),
        tls: tls.flatten(),
        filter: read_filters(filters).within("filters")?,
    })
}

fn read_filters(filters: Vec<pb::Filter>) -> Read<Filter> {
    let mut configs = each("", filters, |filter| {
        let pb::Filter { name, config_type } = filter;
        match config_type {
            Some(filter::ConfigType::TypedConfig(any)) => Ok(any),
            Some(filter::ConfigType::ConfigDiscovery(_)) => {
                Err(Fault::not_honoured("config_discovery"))
            }
            None => Err(Fault::new(
                "",
                format!("filter `{name}` has no configuration"),
            )),
        }
    })?;
    let last = configs.pop().ok_or_else(|| Fault::new("", "empty"))?;
    if last.type_url == HttpConnectionManager::type_url() {
        if !configs.is_empty() {
            return Err(Fault::new(
                "",
                "filters before the HTTP connection manager are not honoured",
            ));
        }
        return connection::read(&last).map(Filter::Http);
    }
    tcp::read(&last, configs).map(Filter::Tcp)
}

fn read_chain_match(message: pb::FilterChainMatch) -> Read<ChainMatch> {
    let pb::FilterChainMatch {
        destination_port,
        prefix_ranges,
        address_suffix,
        suffix_len,
        direct_source_prefix_ranges,
        source_type,
        source_prefix_ranges,
        source_ports,
        server_names,
        transport_protocol,
        application_protocols,
    } = message;
    refuse!(
        prefix_ranges,
        address_suffix,
        suffix_len,
        direct_source_prefix_ranges,
        source_type
    );
    refuse!(source_prefix_ranges, source_ports);
    let transport = match transport_protocol.as_str() {
        "" => Transport::Any,
        "raw_buffer" => Transport::Plaintext,
        "tls" => Transport::Tls,
        other => {
            return Err(Fault::new(
                "transport_protocol",
                format!("`{other}` is not honoured"),
            ));
        }
    };
    Ok(ChainMatch {
        destination_port: read_uint(destination_port)
            .map(|port| read_port("destination_port", port))
            .transpose()?,
        transport,
        alpn: application_protocols,
        server_names: server_names
            .into_iter()
            .map(|name| name.to_ascii_lowercase())
            .collect(),
    })
}
