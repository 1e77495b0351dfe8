//! Who calls, on Kubernetes: the API server vouches for the token of a Pod, and the certificate that the Pod got for it opens
//! streams for as long as that very Pod lives.
//!
//! | shown | opens a stream | gets a certificate |
//! |---|---|---|
//! | token for our audience, bound to a Pod that lives | yes | yes |
//! | certificate with the record of a Pod that lives | yes | no |
//! | anything else | no | no |
//!
//! Nothing is cached: a deleted Pod's token is worth nothing at once. What the API server is asked is bounded, and when it
//! does not answer, callers are told UNAVAILABLE and keep what they have.

mod asking;
mod judge;

use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, PostParams};
use tasuki_identity::{PeerCertificate, SpiffeId, TrustDomain, token};
use tasuki_kubernetes::names;
use tasuki_resources::Object;
use tokio::sync::watch;
use tonic::Status;

use crate::ads::{Authenticator, Caller, NsName, Presented, ProvenPod, Purpose};
use crate::source::Objects;
use asking::Asking;

/// See the module.
pub struct KubernetesAuthenticator {
    client: Client,
    /// Pods that are known already need not be asked for.
    objects: watch::Receiver<Arc<Objects>>,
    trust_domain: TrustDomain,
    asking: Asking,
}

impl KubernetesAuthenticator {
    pub fn new(
        client: Client,
        objects: watch::Receiver<Arc<Objects>>,
        trust_domain: TrustDomain,
    ) -> Self {
        Self {
            client,
            objects,
            trust_domain,
            asking: Asking::default(),
        }
    }

    /// A token that is good decides. A certificate speaks where there is none, or where the API server cannot be asked about it,
    /// and never for another Pod than the token.
    async fn stream(&self, presented: &Presented) -> Result<Option<Caller>, Status> {
        let connection = &presented.connection;
        let by_token = match &presented.bearer {
            Some(token) => Some(self.by_token(token, presented).await),
            None => None,
        };
        match (by_token, &connection.peer) {
            (Some(Ok(caller)), Some(peer)) if contradicts(&caller, peer) => Err(
                Status::unauthenticated("the token and the certificate are of two Pods"),
            ),
            (Some(Ok(caller)), _) => Ok(Some(caller)),
            (_, Some(peer)) => self.by_certificate(peer, presented).await.map(Some),
            (Some(Err(refusal)), None) => Err(refusal),
            (None, None) if connection.tls => Err(Status::unauthenticated(
                "neither a token nor a client certificate",
            )),
            (None, None) => Ok(None),
        }
    }

    async fn by_token(&self, token: &str, presented: &Presented) -> Result<Caller, Status> {
        token::glance(token, names::TOKEN_AUDIENCE, SystemTime::now())
            .map_err(|error| Status::unauthenticated(error.to_string()))?;
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![names::TOKEN_AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let answer = self
            .asking
            .ask(presented, "TokenReview", reviews.create(&params, &review));
        let status = answer.await?.status.unwrap_or_default();
        let caller = judge::review(&status, &self.trust_domain).map_err(Status::unauthenticated)?;
        self.check_live(&caller, presented).await?;
        Ok(caller)
    }

    /// The handshake has checked chain and trust domain, at its time: streams live longer than certificates.
    async fn by_certificate(
        &self,
        peer: &PeerCertificate,
        presented: &Presented,
    ) -> Result<Caller, Status> {
        if SystemTime::now() >= peer.not_after {
            let reason = "the client certificate has expired";
            return Err(Status::unauthenticated(reason));
        }
        let record = peer.pod.as_ref().ok_or_else(|| {
            Status::unauthenticated("the client certificate does not say for which Pod it is")
        })?;
        let caller = Caller {
            id: peer.id.clone(),
            pod: Some(ProvenPod {
                name: NsName {
                    namespace: peer.id.namespace().to_owned(),
                    name: record.name().to_owned(),
                },
                uid: record.uid().to_owned(),
            }),
            may_renew: false,
        };
        self.check_live(&caller, presented).await?;
        Ok(caller)
    }

    async fn check_live(&self, caller: &Caller, presented: &Presented) -> Result<(), Status> {
        let Some(proven) = &caller.pod else {
            return Ok(());
        };
        if self.is_known(&caller.id, proven) {
            return Ok(());
        }
        // Newer than what we were told, or gone, or another one: the API server knows.
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &proven.name.namespace);
        let found = self
            .asking
            .ask(presented, "Pod", pods.get_opt(&proven.name.name))
            .await?;
        judge::pod(found.as_ref(), &caller.id, proven).map_err(Status::unauthenticated)
    }

    fn is_known(&self, id: &SpiffeId, proven: &ProvenPod) -> bool {
        let objects = self.objects.borrow().clone();
        objects
            .objects
            .iter()
            .any(|sourced| match &*sourced.object {
                Object::Pod(pod) => {
                    pod.meta.uid.as_ref() == Some(&proven.uid)
                        && pod.meta.name.name == proven.name.name
                        && pod.meta.name.namespace == proven.name.namespace
                        && pod.service_account == id.service_account()
                        && judge::has_not_ended(pod.phase)
                }
                _ => false,
            })
    }
}

/// Somebody forwards what is not his.
fn contradicts(caller: &Caller, peer: &PeerCertificate) -> bool {
    let uid = caller.pod.as_ref().map(|pod| pod.uid.as_str());
    let recorded = peer.pod.as_ref().map(|record| record.uid());
    caller.id != peer.id || recorded.is_some_and(|recorded| Some(recorded) != uid)
}

#[tonic::async_trait]
impl Authenticator for KubernetesAuthenticator {
    async fn authenticate(
        &self,
        presented: &Presented,
        purpose: Purpose,
    ) -> Result<Option<Caller>, Status> {
        match (purpose, &presented.bearer) {
            (Purpose::Stream, _) => self.stream(presented).await,
            (Purpose::Certificate, Some(token)) => self.by_token(token, presented).await.map(Some),
            (Purpose::Certificate, None) => Err(Status::unauthenticated(
                "a certificate is signed for a Pod's token only",
            )),
        }
    }
}
