//! The ADS service: authenticates a stream, says who the client is, and keeps it up to date.
//!
//! One task per stream reacts to the client's requests and to changes of the [`Catalog`]; what to send
//! when is decided by the pure session of `tasuki_xds::server`.

pub mod client;
pub mod clients;
pub mod service;
mod stream;

#[cfg(test)]
mod tests;

pub use client::{Client, ClientKind, NsName};
pub use clients::{ClientStatus, Clients};
pub use service::AdsService;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tasuki_identity::{PeerCertificate, SpiffeId};
pub use tasuki_xds::codec::{Dialect, Encoded};
use tasuki_xds::model::ResourceType;
pub use tasuki_xds::server::View;
use tokio::sync::watch;

use crate::departures::Departures;
use crate::limits::Standing;
use crate::snapshot::depends::Interest;

/// Where resources come from: the snapshot side of the control plane.
pub trait Catalog: Send + Sync + 'static {
    /// Bumped after anything has changed. Streams wait on it, then look again.
    fn changes(&self) -> watch::Receiver<u64>;

    /// The client as it is now ([`Client::refresh`]), and what it may see: both of one state, which the view keeps.
    ///
    /// # Errors
    /// When it is nobody to be served any longer.
    fn look(&self, known: &Client) -> Result<(Client, Box<dyn View + Send>), tonic::Status>;

    /// What a client that has asked for these names is to be woken for.
    fn interest(&self, _who: &Client, _names: &[(ResourceType, &str)]) -> Interest {
        Interest::default()
    }

    /// The present state, if nothing in it that `interest` covers is different than in the state `since`. `None` says nothing.
    fn unchanged(&self, _since: u64, _interest: &Interest) -> Option<u64> {
        None
    }

    /// The pod, if it exists or has done so until a short while ago. A stream whose pod is unknown, or has another service
    /// account, is refused.
    fn pod(&self, pod: &NsName) -> Option<PodFacts>;

    /// The pods that leave, where anybody is told of such.
    fn departures(&self) -> Option<Arc<Departures>> {
        None
    }

    /// The pod with this address, for clients that do not say which pod they are in.
    fn pod_by_address(&self, address: std::net::IpAddr) -> Option<(NsName, PodFacts)>;
}

/// What identification needs to know of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// `metadata.uid`, where the source has one.
    pub uid: Option<String>,
    /// `spec.serviceAccountName`, `default` when unset.
    pub service_account: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
}

/// What a connection showed, before any claim of the client is read.
#[derive(Clone, Debug, Default)]
pub struct Presented {
    /// The token of `authorization: Bearer`.
    pub bearer: Option<String>,
    /// What the connection itself proves.
    pub connection: ConnectionFacts,
}

/// Put into the request's extensions by the listener that accepted the connection
/// (`tonic::transport::server::Connected::ConnectInfo`).
#[derive(Clone, Debug, Default)]
pub struct ConnectionFacts {
    /// 15012 rather than 15010.
    pub tls: bool,
    /// The verified client certificate.
    pub peer: Option<PeerCertificate>,
    /// The client's address.
    pub remote: Option<SocketAddr>,
    /// What the connection has done so far.
    pub standing: Arc<Standing>,
}

impl Presented {
    /// Reads the bearer token from the metadata and the facts from the extensions.
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        let bearer = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(|token| token.trim().to_owned());
        let connection = request
            .extensions()
            .get::<ConnectionFacts>()
            .cloned()
            .unwrap_or_default();
        Self { bearer, connection }
    }
}

/// Whose connection it is, as proven by what it presented.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Its workload identity.
    pub id: SpiffeId,
    /// The very Pod, where the platform can tell (Kubernetes); it may then claim to be no other. Without it, any Pod of the
    /// identity's service account may be claimed.
    pub pod: Option<ProvenPod>,
    /// What it showed is enough for a new certificate, and so for a key that is made for it (Envoy's SDS).
    pub may_renew: bool,
}

/// A Pod that lives at this moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProvenPod {
    /// Its name.
    pub name: NsName,
    /// Its UID: names are used again.
    pub uid: String,
}

impl Caller {
    /// # Errors
    /// PERMISSION_DENIED when another Pod is proven than the one that is claimed.
    pub fn check_claim(&self, claimed: &NsName) -> Result<(), tonic::Status> {
        match &self.pod {
            Some(proven) if proven.name != *claimed => Err(tonic::Status::permission_denied(
                format!("the credential is of Pod {}, not of {claimed}", proven.name),
            )),
            _ => Ok(()),
        }
    }
}

/// For what somebody authenticates: a platform may ask more of one than of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An ADS stream.
    Stream,
    /// To have a certificate signed.
    Certificate,
}

/// Decides whose connection this is. Implemented by `crate::auth`.
#[tonic::async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// `Ok(None)`: nobody in particular, allowed only as a foreign client on the plaintext port.
    ///
    /// # Errors
    /// UNAUTHENTICATED for a credential that is wrong or expired, or for none where one is needed; UNAVAILABLE when it cannot
    /// be told at this moment.
    async fn authenticate(
        &self,
        presented: &Presented,
        purpose: Purpose,
    ) -> Result<Option<Caller>, tonic::Status>;
}
