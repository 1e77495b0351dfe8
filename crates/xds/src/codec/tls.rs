//! `extensions.transport_sockets.tls.v3` in its three dialects (contract section 3).

use envoy_types::pb::envoy::config::core::v3::{DataSource, TransportSocket, data_source, transport_socket};
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::SystemRootCerts;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use prost::Name;

use super::Dialect;
use super::field::{
    Fault, Read, Within, ads, boolean, each, pack, read_ads, read_bool, refuse, required, unpack,
};
use crate::model::tls::{CertificateSource, ClientTls, ServerTls};

const TLS_SOCKET: &str = "envoy.transport_sockets.tls";
const RAW_SOCKET: &str = "envoy.transport_sockets.raw_buffer";

/// SDS names that Istio's Envoys use too.
pub(super) const SDS_CERTIFICATE: &str = "default";
pub(super) const SDS_ROOTS: &str = "ROOTCA";

/// Where Debian, and so Envoy's images, keep the system's roots; Envoy has no setting that says "the system's".
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

pub(super) fn plaintext() -> TransportSocket {
    socket(RAW_SOCKET, pack(&RawBuffer {}))
}

fn socket(name: &str, any: envoy_types::pb::google::protobuf::Any) -> TransportSocket {
    TransportSocket {
        name: name.to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any)),
    }
}

/// What a certificate source is called in a dialect; `None` where that client cannot have it.
fn in_dialect(
    source: &CertificateSource,
    sds_name: &str,
    dialect: &Dialect,
) -> Option<CertificateSource> {
    match (dialect, source) {
        (Dialect::Tasuki, source) => Some(source.clone()),
        (Dialect::Envoy { secrets: false }, _) => None,
        (Dialect::Envoy { secrets: true }, CertificateSource::Sds(name)) => {
            Some(CertificateSource::Sds(name.clone()))
        }
        (Dialect::Envoy { secrets: true }, CertificateSource::ProviderInstance(_)) => {
            Some(CertificateSource::Sds(sds_name.to_owned()))
        }
        (Dialect::Grpc { provider }, _) => {
            provider.clone().map(CertificateSource::ProviderInstance)
        }
    }
}

/// `Ok(None)`: no source wanted. `Err(())`: wanted, but this client cannot have it.
fn translate(
    source: Option<&CertificateSource>,
    sds_name: &str,
    dialect: &Dialect,
) -> Result<Option<CertificateSource>, ()> {
    source
        .map(|s| in_dialect(s, sds_name, dialect).ok_or(()))
        .transpose()
}

/// The upstream socket, or `None` where the client cannot do it and must use plaintext.
pub(super) fn client(of: &ClientTls, dialect: &Dialect) -> Option<TransportSocket> {
    let ClientTls {
        certificate,
        trust,
        server_identities,
        server_names,
        sni,
        alpn,
    } = of;
    let certificate = translate(certificate.as_ref(), SDS_CERTIFICATE, dialect).ok()?;
    let trust = translate(trust.as_ref(), SDS_ROOTS, dialect).ok()?;
    let sans = server_identities
        .iter()
        .map(|id| san(SanType::Uri, id))
        .chain(server_names.iter().map(|name| san(SanType::Dns, name)))
        .collect();
    // gRPC speaks its own ALPN.
    let alpn = if matches!(dialect, Dialect::Grpc { .. }) {
        &[][..]
    } else {
        alpn
    };
    let mut common = common(certificate, alpn);
    common.validation_context_type = Some(validation(trust, sans, dialect));
    if matches!(dialect, Dialect::Envoy { .. }) {
        // Envoy's clients stop at TLS 1.2 unless told otherwise; mesh peers take nothing below 1.3.
        common.tls_params = Some(pb::TlsParameters {
            tls_maximum_protocol_version: pb::tls_parameters::TlsProtocol::TlSv13 as i32,
            ..pb::TlsParameters::default()
        });
    }
    Some(socket(
        TLS_SOCKET,
        pack(&pb::UpstreamTlsContext {
            common_tls_context: Some(common),
            sni: sni.clone().unwrap_or_default(),
            ..pb::UpstreamTlsContext::default()
        }),
    ))
}

/// The downstream socket, or `None` where the client cannot have the certificate.
pub(super) fn server(of: &ServerTls, dialect: &Dialect) -> Option<TransportSocket> {
    let ServerTls {
        certificate,
        trust,
        require_client_certificate,
        alpn,
    } = of;
    let certificate = in_dialect(certificate, SDS_CERTIFICATE, dialect)?;
    let trust = translate(trust.as_ref(), SDS_ROOTS, dialect).ok()?;
    let mut common = common(Some(certificate), alpn);
    common.validation_context_type =
        trust.map(|trust| validation(Some(trust), Vec::new(), dialect));
    Some(socket(
        TLS_SOCKET,
        pack(&pb::DownstreamTlsContext {
            common_tls_context: Some(common),
            require_client_certificate: require_client_certificate.then(|| boolean(true)).flatten(),
            ..pb::DownstreamTlsContext::default()
        }),
    ))
}

fn common(certificate: Option<CertificateSource>, alpn: &[String]) -> pb::CommonTlsContext {
    let mut common = pb::CommonTlsContext {
        alpn_protocols: alpn.to_vec(),
        ..pb::CommonTlsContext::default()
    };
    match certificate {
        None => {}
        Some(CertificateSource::ProviderInstance(name)) => {
            common.tls_certificate_provider_instance = Some(instance(name))
        }
        Some(CertificateSource::Sds(name)) => {
            common.tls_certificate_sds_secret_configs = vec![sds(name)]
        }
    }
    common
}

fn instance(instance_name: String) -> pb::CertificateProviderPluginInstance {
    pb::CertificateProviderPluginInstance {
        instance_name,
        certificate_name: String::new(),
    }
}

fn sds(name: String) -> pb::SdsSecretConfig {
    pb::SdsSecretConfig {
        name,
        sds_config: ads(),
    }
}

fn san(kind: SanType, exact: &str) -> pb::SubjectAltNameMatcher {
    pb::SubjectAltNameMatcher {
        san_type: kind as i32,
        matcher: Some(exactly(exact)),
        oid: String::new(),
    }
}

fn exactly(text: &str) -> StringMatcher {
    StringMatcher {
        ignore_case: false,
        match_pattern: Some(MatchPattern::Exact(text.to_owned())),
    }
}

#[allow(
    deprecated,
    reason = "the only form of SAN matching that gRFC A29 clients read"
)]
fn validation(
    trust: Option<CertificateSource>,
    sans: Vec<pb::SubjectAltNameMatcher>,
    dialect: &Dialect,
) -> ValidationContextType {
    let mut context = pb::CertificateValidationContext::default();
    match dialect {
        Dialect::Grpc { .. } => {
            context.match_subject_alt_names = sans.into_iter().filter_map(|s| s.matcher).collect()
        }
        Dialect::Tasuki | Dialect::Envoy { .. } => context.match_typed_subject_alt_names = sans,
    }
    match trust {
        Some(CertificateSource::ProviderInstance(name)) => {
            context.ca_certificate_provider_instance = Some(instance(name))
        }
        Some(CertificateSource::Sds(name)) => {
            return ValidationContextType::CombinedValidationContext(
                CombinedCertificateValidationContext {
                    default_validation_context: Some(context),
                    validation_context_sds_secret_config: Some(sds(name)),
                    ..CombinedCertificateValidationContext::default()
                },
            );
        }
        None if matches!(dialect, Dialect::Envoy { .. }) => {
            let specifier = Some(data_source::Specifier::Filename(SYSTEM_ROOTS.to_owned()));
            context.trusted_ca = Some(DataSource {
                specifier,
                ..DataSource::default()
            });
        }
        None => context.system_root_certs = Some(SystemRootCerts {}),
    }
    ValidationContextType::ValidationContext(context)
}

/// The upstream side of a socket; `None` is plaintext.
pub(super) fn read_client(socket: TransportSocket) -> Read<Option<ClientTls>> {
    let any = read_socket(socket)?;
    if any.type_url == RawBuffer::type_url() {
        return Ok(None);
    }
    let pb::UpstreamTlsContext {
        common_tls_context,
        sni,
        auto_host_sni,
        auto_sni_san_validation,
        allow_renegotiation,
        max_session_keys: _, // a cache size
        #[allow(deprecated)]
        enforce_rsa_key_usage,
    } = unpack(&any)?;
    refuse!(
        auto_host_sni,
        auto_sni_san_validation,
        allow_renegotiation,
        enforce_rsa_key_usage
    );
    let common = read_common(required("common_tls_context", common_tls_context)?)
        .within("common_tls_context")?;
    let validation = common.validation.unwrap_or_default();
    Ok(Some(ClientTls {
        certificate: common.certificate,
        trust: validation.trust,
        server_identities: validation.uris,
        server_names: validation.names,
        sni: (!sni.is_empty()).then_some(sni),
        alpn: common.alpn,
    }))
}

/// The downstream side of a socket; `None` is plaintext.
pub(super) fn read_server(socket: TransportSocket) -> Read<Option<ServerTls>> {
    let any = read_socket(socket)?;
    if any.type_url == RawBuffer::type_url() {
        return Ok(None);
    }
    let pb::DownstreamTlsContext {
        common_tls_context,
        require_client_certificate,
        require_sni,
        disable_stateful_session_resumption: _,
        session_timeout: _,
        ocsp_staple_policy,
        full_scan_certs_on_sni_mismatch: _,
        prefer_client_ciphers: _,
        session_ticket_keys_type,
    } = unpack(&any)?;
    refuse!(require_sni, ocsp_staple_policy, session_ticket_keys_type);
    let common = read_common(required("common_tls_context", common_tls_context)?)
        .within("common_tls_context")?;
    let trust = match common.validation {
        None => None,
        Some(validation) if !validation.uris.is_empty() || !validation.names.is_empty() => {
            return Err(Fault::new(
                "common_tls_context",
                "subject alternative names of clients are not honoured",
            ));
        }
        Some(validation) => Some(required(
            "common_tls_context.validation_context.trusted_ca",
            validation.trust,
        )?),
    };
    let require_client_certificate = read_bool(require_client_certificate).unwrap_or(false);
    if require_client_certificate && trust.is_none() {
        return Err(Fault::new(
            "require_client_certificate",
            "without a validation context",
        ));
    }
    Ok(Some(ServerTls {
        certificate: required(
            "common_tls_context.tls_certificate_provider_instance",
            common.certificate,
        )?,
        trust,
        require_client_certificate,
        alpn: common.alpn,
    }))
}

fn read_socket(socket: TransportSocket) -> Read<envoy_types::pb::google::protobuf::Any> {
    let TransportSocket {
        name: _,
        config_type,
    } = socket;
    let transport_socket::ConfigType::TypedConfig(any) = required("typed_config", config_type)?;
    Ok(any)
}

struct Common {
    certificate: Option<CertificateSource>,
    validation: Option<Validation>,
    alpn: Vec<String>,
}

#[derive(Default)]
struct Validation {
    trust: Option<CertificateSource>,
    uris: Vec<String>,
    names: Vec<String>,
}

#[allow(deprecated, reason = "every field must be named, to be refused")]
fn read_common(message: pb::CommonTlsContext) -> Read<Common> {
    let pb::CommonTlsContext {
        tls_params,
        tls_certificates,
        tls_certificate_sds_secret_configs,
        tls_certificate_provider_instance,
        custom_tls_certificate_selector,
        tls_certificate_certificate_provider,
        tls_certificate_certificate_provider_instance,
        alpn_protocols,
        custom_handshaker,
        key_log,
        validation_context_type,
    } = message;
    refuse!(
        tls_params,
        tls_certificates,
        custom_tls_certificate_selector,
        tls_certificate_certificate_provider
    );
    refuse!(
        tls_certificate_certificate_provider_instance,
        custom_handshaker,
        key_log
    );
    let mut secrets = tls_certificate_sds_secret_configs;
    let certificate = match (tls_certificate_provider_instance, secrets.pop()) {
        (None, None) => None,
        (Some(instance), None) => Some(read_instance(instance)?),
        (None, Some(secret)) if secrets.is_empty() => Some(read_sds(secret)?),
        _ => {
            return Err(Fault::new(
                "tls_certificate_sds_secret_configs",
                "more than one certificate",
            ));
        }
    };
    let validation = validation_context_type
        .map(read_validation_type)
        .transpose()?;
    Ok(Common {
        certificate,
        validation,
        alpn: alpn_protocols,
    })
}

fn read_instance(message: pb::CertificateProviderPluginInstance) -> Read<CertificateSource> {
    // Our provider has one certificate, whatever it is called.
    let pb::CertificateProviderPluginInstance {
        instance_name,
        certificate_name: _,
    } = message;
    if instance_name.is_empty() {
        return Err(Fault::new("instance_name", "empty"));
    }
    Ok(CertificateSource::ProviderInstance(instance_name))
}

fn read_sds(message: pb::SdsSecretConfig) -> Read<CertificateSource> {
    let pb::SdsSecretConfig { name, sds_config } = message;
    read_ads(sds_config).within("sds_config")?;
    Ok(CertificateSource::Sds(name))
}

#[allow(deprecated, reason = "every form must be named, to be refused")]
fn read_validation_type(message: ValidationContextType) -> Read<Validation> {
    match message {
        ValidationContextType::ValidationContext(context) => {
            read_validation(context).within("validation_context")
        }
        ValidationContextType::ValidationContextSdsSecretConfig(secret) => Ok(Validation {
            trust: Some(read_sds(secret)?),
            ..Validation::default()
        }),
        ValidationContextType::CombinedValidationContext(combined) => {
            read_combined(combined).within("combined_validation_context")
        }
        ValidationContextType::ValidationContextCertificateProvider(_)
        | ValidationContextType::ValidationContextCertificateProviderInstance(_) => Err(
            Fault::not_honoured("validation_context_certificate_provider"),
        ),
    }
}

#[allow(deprecated, reason = "every field must be named, to be refused")]
fn read_combined(message: CombinedCertificateValidationContext) -> Read<Validation> {
    let CombinedCertificateValidationContext {
        default_validation_context,
        validation_context_sds_secret_config,
        validation_context_certificate_provider,
        validation_context_certificate_provider_instance,
    } = message;
    refuse!(
        validation_context_certificate_provider,
        validation_context_certificate_provider_instance
    );
    let mut validation = read_validation(default_validation_context.unwrap_or_default())
        .within("default_validation_context")?;
    if let Some(secret) = validation_context_sds_secret_config {
        validation.trust = Some(read_sds(secret)?);
    }
    Ok(validation)
}

#[allow(deprecated, reason = "every field must be named, to be refused")]
fn read_validation(message: pb::CertificateValidationContext) -> Read<Validation> {
    let pb::CertificateValidationContext {
        trusted_ca,
        ca_certificate_provider_instance,
        system_root_certs: _, // what is done when no other trust is given
        watched_directory,
        verify_certificate_spki,
        verify_certificate_hash,
        match_typed_subject_alt_names,
        match_subject_alt_names,
        require_signed_certificate_timestamp,
        crl,
        allow_expired_certificate,
        trust_chain_verification,
        custom_validator_config,
        only_verify_leaf_cert_crl,
        max_verify_depth,
        suppress_client_ca_list: _, // a hint to the client
    } = message;
    refuse!(
        trusted_ca,
        watched_directory,
        verify_certificate_spki,
        verify_certificate_hash,
        match_subject_alt_names
    );
    refuse!(
        require_signed_certificate_timestamp,
        crl,
        allow_expired_certificate,
        trust_chain_verification
    );
    refuse!(
        custom_validator_config,
        only_verify_leaf_cert_crl,
        max_verify_depth
    );
    let sans = each(
        "match_typed_subject_alt_names",
        match_typed_subject_alt_names,
        read_san,
    )?;
    let trust = ca_certificate_provider_instance
        .map(read_instance)
        .transpose()?;
    let (uris, names): (Vec<_>, Vec<_>) = sans
        .into_iter()
        .partition(|(kind, _)| *kind == SanType::Uri);
    let texts = |sans: Vec<(SanType, String)>| sans.into_iter().map(|(_, text)| text).collect();
    Ok(Validation {
        trust,
        uris: texts(uris),
        names: texts(names),
    })
}

fn read_san(message: pb::SubjectAltNameMatcher) -> Read<(SanType, String)> {
    let pb::SubjectAltNameMatcher {
        san_type,
        matcher,
        oid,
    } = message;
    refuse!(oid);
    let kind = match SanType::try_from(san_type) {
        Ok(kind @ (SanType::Uri | SanType::Dns)) => kind,
        _ => return Err(Fault::not_honoured("san_type")),
    };
    match required("matcher", matcher)? {
        StringMatcher {
            ignore_case: false,
            match_pattern: Some(MatchPattern::Exact(text)),
        } => Ok((kind, text)),
        _ => Err(Fault::new("matcher", "only `exact` is honoured")),
    }
}
