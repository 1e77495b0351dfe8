//! Model to wire and back: one file per resource type, both directions beside each other.
//!
//! Reading destructures each Envoy message exhaustively: a field is honoured, refused with its name,
//! or listed as harmless. Nothing is ignored by accident, not even after an update of `envoy-types`.

mod cluster;
mod departure;
mod endpoint;
mod field;
mod headers;
mod listener;
mod matching;
mod metadata;
mod proxy_settings;
mod rbac;
mod route;
pub mod secret;
mod tls;
mod trust;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster as PbCluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment as PbAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener as PbListener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration as PbRoutes;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret as PbSecret;
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};
use sha2::{Digest, Sha256};

use self::field::{Fault, Read, pack};
use crate::model::{Resource, ResourceType};
use crate::proto;

/// Whom a resource is written for (contract section 3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// A Tasuki proxy: certificate provider instance `workload`, `api_listener`, our metadata and messages.
    Tasuki,
    /// Envoy. `secrets`: the stream is authenticated, so TLS by SDS names may be used; otherwise plaintext.
    Envoy {
        /// SDS `default` and `ROOTCA` will be served to this client.
        secrets: bool,
    },
    /// gRPC. `provider` is the certificate provider instance its `node.metadata` names; without one, plaintext.
    Grpc {
        /// Instance name from the client's bootstrap.
        provider: Option<String>,
    },
}

/// One resource as it goes on the wire. Cheap to share between streams.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// Type it is subscribed under.
    pub ty: ResourceType,
    /// Name it is subscribed under.
    pub name: String,
    /// Hash of the content: equal on every replica and after each restart.
    pub version: String,
    /// The message.
    pub any: Any,
}

/// Why a resource was refused, naming the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The resource's name; empty if it did not say one.
    pub name: String,
    /// Field path and what is wrong with it.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

impl std::error::Error for Refusal {}

/// Goes into every version, so that a codec that writes something else is noticed by clients.
const CODEC: &str = "1";

impl ResourceType {
    /// Every type, in the order in which a stream carries them.
    pub const ALL: [ResourceType; 8] = [
        ResourceType::TrustBundle,
        ResourceType::ProxySettings,
        ResourceType::Secret,
        ResourceType::Cluster,
        ResourceType::Endpoint,
        ResourceType::Listener,
        ResourceType::Route,
        ResourceType::Departure,
    ];

    /// The `type_url` under which it is subscribed to.
    pub fn type_url(self) -> &'static str {
        match self {
            ResourceType::TrustBundle => proto::TRUST_BUNDLE_URL,
            ResourceType::ProxySettings => proto::PROXY_SETTINGS_URL,
            ResourceType::Secret => {
                "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
            }
            ResourceType::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            ResourceType::Endpoint => {
                "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
            }
            ResourceType::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            ResourceType::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            ResourceType::Departure => proto::DEPARTURE_URL,
        }
    }

    /// The type of a `type_url`, if it is one of ours.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.type_url() == url)
    }
}

impl fmt::Display for ResourceType {
    /// As in the names of the discovery services: `CDS`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResourceType::TrustBundle => "trust",
            ResourceType::ProxySettings => "settings",
            ResourceType::Secret => "SDS",
            ResourceType::Cluster => "CDS",
            ResourceType::Endpoint => "EDS",
            ResourceType::Listener => "LDS",
            ResourceType::Route => "RDS",
            ResourceType::Departure => "departure",
        })
    }
}

impl Resource {
    /// The type under which the resource is subscribed to.
    pub fn ty(&self) -> ResourceType {
        match self {
            Resource::TrustBundle(_) => ResourceType::TrustBundle,
            Resource::ProxySettings(_) => ResourceType::ProxySettings,
            Resource::Cluster(_) => ResourceType::Cluster,
            Resource::Endpoint(_) => ResourceType::Endpoint,
            Resource::Listener(_) => ResourceType::Listener,
            Resource::Route(_) => ResourceType::Route,
            Resource::Departure(_) => ResourceType::Departure,
        }
    }
}

/// Writes `resource` for clients of `dialect`.
pub fn encode(resource: &Resource, dialect: &Dialect) -> Arc<Encoded> {
    let any = match resource {
        Resource::TrustBundle(bundle) => Any {
            type_url: proto::TRUST_BUNDLE_URL.to_owned(),
            value: trust::write(bundle).encode_to_vec(),
        },
        Resource::ProxySettings(settings) => Any {
            type_url: proto::PROXY_SETTINGS_URL.to_owned(),
            value: proxy_settings::write(settings).encode_to_vec(),
        },
        Resource::Cluster(cluster) => pack(&cluster::write(cluster, dialect)),
        Resource::Endpoint(assignment) => pack(&endpoint::write(assignment, dialect)),
        Resource::Listener(listener) => pack(&listener::write(listener, dialect)),
        Resource::Route(table) => pack(&route::write(table, dialect)),
        Resource::Departure(departure) => Any {
            type_url: proto::DEPARTURE_URL.to_owned(),
            value: departure::write(departure).encode_to_vec(),
        },
    };
    let name = resource.name().to_owned();
    Arc::new(Encoded {
        ty: resource.ty(),
        name,
        version: version(resource, dialect),
        any,
    })
}

/// The version under which [`encode`] sends `resource`, without encoding it.
///
/// A hash of the model rather than of the message: protobuf maps have no order, so the bytes of two
/// equal messages differ from one process to the next.
pub fn version(resource: &Resource, dialect: &Dialect) -> String {
    hash(format!("{CODEC}{dialect:?}{resource:?}").as_bytes())
}

fn hash(content: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(content)
        .iter()
        .take(12)
        .fold(String::with_capacity(24), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Reads one resource of type `ty` as sent to a Tasuki proxy.
///
/// # Errors
/// The name of the resource and the field that is wrong, unknown or not honoured.
pub fn decode(ty: ResourceType, any: &Any) -> Result<Resource, Refusal> {
    if any.type_url != ty.type_url() {
        let reason = format!(
            "type_url: `{}` in a response for `{}`",
            any.type_url,
            ty.type_url()
        );
        return Err(Refusal {
            name: String::new(),
            reason,
        });
    }
    let bytes = any.value.as_slice();
    match ty {
        ResourceType::TrustBundle => parse(
            bytes,
            |m: &proto::TrustBundle| m.name.clone(),
            trust::read,
            Resource::TrustBundle,
        ),
        ResourceType::ProxySettings => parse(
            bytes,
            |m: &proto::ProxySettings| m.name.clone(),
            proxy_settings::read,
            Resource::ProxySettings,
        ),
        ResourceType::Cluster => parse(
            bytes,
            |m: &PbCluster| m.name.clone(),
            cluster::read,
            Resource::Cluster,
        ),
        ResourceType::Endpoint => parse(
            bytes,
            |m: &PbAssignment| m.cluster_name.clone(),
            endpoint::read,
            Resource::Endpoint,
        ),
        ResourceType::Listener => parse(
            bytes,
            |m: &PbListener| m.name.clone(),
            listener::read,
            Resource::Listener,
        ),
        ResourceType::Route => parse(
            bytes,
            |m: &PbRoutes| m.name.clone(),
            route::read,
            Resource::Route,
        ),
        ResourceType::Departure => parse(
            bytes,
            |m: &proto::Departure| m.name.clone(),
            departure::read,
            Resource::Departure,
        ),
        ResourceType::Secret => Err(Refusal {
            name: String::new(),
            reason: format!("{}: not honoured", PbSecret::type_url()),
        }),
    }
}

fn parse<M: Message + Default, T>(
    bytes: &[u8],
    name_of: impl Fn(&M) -> String,
    read: impl Fn(M) -> Read<T>,
    wrap: impl Fn(T) -> Resource,
) -> Result<Resource, Refusal> {
    let message = M::decode(bytes).map_err(|error| Refusal {
        name: String::new(),
        reason: format!("malformed: {error}"),
    })?;
    let name = name_of(&message);
    let result = if name.is_empty() {
        Err(Fault::missing("name"))
    } else {
        read(message).map(wrap)
    };
    result.map_err(|fault| Refusal {
        name,
        reason: fault.to_string(),
    })
}
