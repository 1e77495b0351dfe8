//! Who calls: a join token, or on the TLS port the workload certificate that the caller still has.
//!
//! Listeners of both ports live here too, since only they know what a connection proves.

pub mod incoming;
pub mod kubernetes;

use std::path::Path;
use std::time::SystemTime;

use tasuki_identity::{Error, PeerCertificate, SpiffeId, TrustDomain, token};
use tonic::Status;

use crate::ads::{Authenticator, Caller, Presented, Purpose};

/// Authentication by what the state dir holds: the key of the join tokens. The embedded mode's authenticator.
pub struct StateDirAuthenticator {
    tokens: token::Verifier,
    trust_domain: TrustDomain,
    clock: fn() -> SystemTime,
}

impl StateDirAuthenticator {
    pub fn new(state_dir: &Path, trust_domain: TrustDomain) -> Result<Self, Error> {
        Ok(Self {
            tokens: token::Verifier::load(state_dir)?,
            trust_domain,
            clock: SystemTime::now,
        })
    }

    /// Either credential is enough. Two that contradict each other are refused: somebody forwards what is not his.
    fn decide(&self, presented: &Presented) -> Result<Option<SpiffeId>, Status> {
        let now = (self.clock)();
        let connection = &presented.connection;
        let certificate = connection
            .peer
            .as_ref()
            .map(|peer| self.by_certificate(peer, now));
        let token = presented
            .bearer
            .as_deref()
            .map(|token| self.by_token(token, now));
        match (token, certificate) {
            (Some(Ok(a)), Some(Ok(b))) if a != b => Err(Status::unauthenticated(format!(
                "the token is of {a}, the certificate of {b}"
            ))),
            // A token that ran out does not matter beside a certificate that did not, and the other way round.
            (Some(Ok(id)), _) | (_, Some(Ok(id))) => Ok(Some(id)),
            (Some(Err(refusal)), _) | (None, Some(Err(refusal))) => Err(refusal),
            (None, None) if connection.tls => Err(Status::unauthenticated(
                "neither a token nor a client certificate",
            )),
            (None, None) => Ok(None),
        }
    }

    fn by_token(&self, token: &str, now: SystemTime) -> Result<SpiffeId, Status> {
        let claims = self.tokens.verify(token, now);
        let id = claims.and_then(|claims| claims.spiffe_id(&self.trust_domain));
        id.map_err(|error| Status::unauthenticated(error.to_string()))
    }

    /// The handshake has checked chain and trust domain, at its time: streams live longer than certificates.
    fn by_certificate(&self, peer: &PeerCertificate, now: SystemTime) -> Result<SpiffeId, Status> {
        if now >= peer.not_after {
            return Err(Status::unauthenticated(
                "the client certificate has expired",
            ));
        }
        Ok(peer.id.clone())
    }
}

#[tonic::async_trait]
impl Authenticator for StateDirAuthenticator {
    async fn authenticate(
        &self,
        presented: &Presented,
        _purpose: Purpose,
    ) -> Result<Option<Caller>, Status> {
        let id = self.decide(presented)?;
        Ok(id.map(|id| Caller {
            id,
            pod: None,
            may_renew: true,
        }))
    }
}

#[cfg(test)]
mod tests;
