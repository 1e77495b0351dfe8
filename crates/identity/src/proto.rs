//! The certificate service's messages, client and server (`proto/istio/v1/auth/ca.proto`).

use std::collections::BTreeMap;
use std::time::Duration;

use prost_types::value::Kind;
use prost_types::{Struct, Value};

pub use generated::istio_certificate_service_client::IstioCertificateServiceClient;
pub use generated::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
pub use generated::{IstioCertificateRequest, IstioCertificateResponse};

use crate::csr::CsrPem;

mod generated {
    //! Written by tonic-prost-build.
    #![allow(missing_docs, unused_qualifications)]
    tonic::include_proto!("istio.v1.auth");
}

/// Keys of `metadata` that say for which pod a certificate is asked; the same as in the ADS node's metadata.
pub const POD_NAMESPACE: &str = "POD_NAMESPACE";
/// See [`POD_NAMESPACE`].
pub const POD_NAME: &str = "POD_NAME";

/// A request; `validity` of `None` takes the service's default, `pod` is `(namespace, name)` and absent for gateways.
pub fn request(
    csr: &CsrPem,
    validity: Option<Duration>,
    pod: Option<(&str, &str)>,
) -> IstioCertificateRequest {
    let text = |value: &str| Value {
        kind: Some(Kind::StringValue(value.to_owned())),
    };
    let metadata = pod.map(|(namespace, name)| Struct {
        fields: BTreeMap::from([
            (POD_NAMESPACE.to_owned(), text(namespace)),
            (POD_NAME.to_owned(), text(name)),
        ]),
    });
    IstioCertificateRequest {
        csr: csr.as_str().to_owned(),
        validity_duration: validity.map_or(0, |v| v.as_secs().try_into().unwrap_or(i64::MAX)),
        metadata,
    }
}

impl IstioCertificateRequest {
    /// The pod that the caller claims to be, `(namespace, name)`; `Err` when only half of it is given.
    pub fn pod(&self) -> Result<Option<(&str, &str)>, &'static str> {
        let field = |key: &str| match self.metadata.as_ref()?.fields.get(key)?.kind.as_ref()? {
            Kind::StringValue(text) if !text.is_empty() => Some(text.as_str()),
            _ => None,
        };
        match (field(POD_NAMESPACE), field(POD_NAME)) {
            (Some(namespace), Some(name)) => Ok(Some((namespace, name))),
            (None, None) => Ok(None),
            _ => Err("metadata has only one of POD_NAMESPACE and POD_NAME"),
        }
    }
}
