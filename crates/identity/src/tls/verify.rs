//! The verifiers: a chain to one of several roots by webpki, then the identity in the URI SAN.
//!
//! Signatures of the handshake itself are checked by rustls' own functions; nothing here weakens them.

use std::fmt;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::certificate::Roots;
use crate::error::Error;
use crate::id::{SpiffeId, TrustDomain};
use crate::peer;
use crate::tls::ServerIdentity;

/// Checks what clients show.
pub(super) struct ClientVerifier {
    chains: Chains,
    trust_domain: TrustDomain,
    required: bool,
    /// Root subjects offered as a hint: none, since they tell a stranger nothing he needs and mesh clients have one certificate.
    hints: [DistinguishedName; 0],
}

/// Checks servers for every [`ServerIdentity`] but `Dns`, which is rustls' own verifier.
pub(super) struct ServerVerifier {
    chains: Chains,
    expected: ServerIdentity,
}

struct Chains {
    anchors: Vec<TrustAnchor<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Chains {
    fn new(roots: &Roots) -> Result<Self, Error> {
        let anchors = roots
            .certificates()
            .iter()
            .map(|root| anchor_from_trusted_cert(root).map(|anchor| anchor.to_owned()))
            .collect::<Result<_, _>>()
            .map_err(|e| Error::Roots(e.to_string()))?;
        Ok(Self {
            anchors,
            algorithms: aws_lc_rs::default_provider().signature_verification_algorithms,
        })
    }

    /// `usage` tells client certificates from server certificates (extended key usage).
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), rustls::Error> {
        let certificate = EndEntityCert::try_from(leaf).map_err(refusal)?;
        certificate
            .verify_for_usage(
                self.algorithms.all,
                &self.anchors,
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map_err(refusal)?;
        Ok(())
    }
}

impl ClientVerifier {
    pub(super) fn new(
        roots: &Roots,
        trust_domain: TrustDomain,
        required: bool,
    ) -> Result<Self, Error> {
        Ok(Self {
            chains: Chains::new(roots)?,
            trust_domain,
            required,
            hints: [],
        })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.chains
            .verify(leaf, intermediates, now, KeyUsage::client_auth())?;
        let id = identity(leaf)?;
        if id.trust_domain() == self.trust_domain.as_str() {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.chains.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.chains.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.algorithms.supported_schemes()
    }
}

impl ServerVerifier {
    pub(super) fn new(roots: &Roots, expected: ServerIdentity) -> Result<Self, Error> {
        Ok(Self {
            chains: Chains::new(roots)?,
            expected,
        })
    }

    fn is_expected(
        &self,
        leaf: &CertificateDer<'_>,
        dialled: &ServerName<'_>,
    ) -> Result<bool, rustls::Error> {
        match &self.expected {
            ServerIdentity::AnyOf(ids) => Ok(ids.contains(&identity(leaf)?)),
            ServerIdentity::TrustDomain(domain) => {
                Ok(identity(leaf)?.trust_domain() == domain.as_str())
            }
            ServerIdentity::Dns => Ok(has_name(leaf, dialled)?),
            ServerIdentity::DnsAnyOf(names) => {
                for name in names {
                    let name = ServerName::try_from(name.as_str())
                        .map_err(|_| CertificateError::BadEncoding)?;
                    if has_name(leaf, &name)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        dialled: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.chains
            .verify(leaf, intermediates, now, KeyUsage::server_auth())?;
        if self.is_expected(leaf, dialled)? {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.chains.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.chains.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.algorithms.supported_schemes()
    }
}

fn identity(leaf: &CertificateDer<'_>) -> Result<SpiffeId, rustls::Error> {
    match peer::read(leaf) {
        Ok(details) => Ok(details.peer.id),
        Err(_) => Err(CertificateError::ApplicationVerificationFailure.into()),
    }
}

fn has_name(leaf: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<bool, rustls::Error> {
    Ok(EndEntityCert::try_from(leaf)
        .map_err(refusal)?
        .verify_is_valid_for_subject_name(name)
        .is_ok())
}

/// The alerts that peers and logs understand.
fn refusal(error: webpki::Error) -> rustls::Error {
    let reason = match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => {
            CertificateError::BadEncoding
        }
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        other => CertificateError::Other(rustls::OtherError(std::sync::Arc::new(other))),
    };
    reason.into()
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientVerifier({})", self.trust_domain)
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerVerifier({:?})", self.expected)
    }
}
