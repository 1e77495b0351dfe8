//! SDS secrets, for Envoy only and only on an authenticated stream.
//!
//! Our own proxies never get a key from the control plane: they make it themselves and ask for a certificate.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate,
};

use super::field::pack;
use super::tls::{SDS_CERTIFICATE, SDS_ROOTS};
use super::{Encoded, hash};
use crate::model::ResourceType;

/// The roots of the mesh, `ROOTCA`, from PEM.
pub fn roots(pem: &str) -> Arc<Encoded> {
    let trusted_ca = Some(inline(pem));
    let context = CertificateValidationContext {
        trusted_ca,
        ..CertificateValidationContext::default()
    };
    encoded(SDS_ROOTS, Type::ValidationContext(context), pem)
}

/// The client's own certificate and key, `default`, from PEM.
pub fn certificate(chain_pem: &str, key_pem: &str) -> Arc<Encoded> {
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(chain_pem)),
        private_key: Some(inline(key_pem)),
        ..TlsCertificate::default()
    };
    encoded(
        SDS_CERTIFICATE,
        Type::TlsCertificate(certificate),
        chain_pem,
    )
}

fn inline(text: &str) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineString(text.to_owned())),
        ..DataSource::default()
    }
}

fn encoded(name: &str, kind: Type, content: &str) -> Arc<Encoded> {
    Arc::new(Encoded {
        ty: ResourceType::Secret,
        name: name.to_owned(),
        version: hash(content.as_bytes()),
        any: pack(&Secret {
            name: name.to_owned(),
            r#type: Some(kind),
        }),
    })
}
