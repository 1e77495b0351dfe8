//! Who a client is: its kind, dialect, labels and proven identity (contract section 2).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use tasuki_identity::SpiffeId;
use tasuki_xds::codec::Dialect;

/// `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NsName {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name within it.
    pub name: String,
}

impl fmt::Display for NsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for NsName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(format!("`{text}` is not NAMESPACE/NAME")),
        }
    }
}

/// What the client is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientKind {
    /// `tasuki-proxy sidecar --pod`; the pod exists and has the identity's service account.
    Sidecar {
        /// The pod.
        pod: NsName,
    },
    /// `tasuki-proxy gateway --gateway`: gets this Gateway's listeners whatever its selector.
    TasukiGateway {
        /// The Gateway resource.
        gateway: NsName,
    },
    /// Envoy as gateway: gets the Gateways of its namespace whose selector matches its labels.
    EnvoyGateway,
    /// A proxyless gRPC client.
    Grpc,
}

/// A client that has been identified; everything that decides what it may see.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// What it is.
    pub kind: ClientKind,
    /// How resources are written for it. Its views must use exactly this.
    pub dialect: Dialect,
    /// The namespace whose rules apply to it.
    pub namespace: String,
    /// Its labels (VirtualService `sourceLabels`, Gateway selectors).
    pub labels: BTreeMap<String, String>,
    /// Proven by token or certificate. `None`: foreign, never gets `inbound` or secrets.
    pub identity: Option<SpiffeId>,
    /// `node.id`, for people.
    pub node_id: String,
    /// `node.client_features`.
    pub features: Vec<String>,
}

impl Client {
    /// Whether it announced the feature.
    pub fn supports(&self, feature: &str) -> bool {
        self.features.iter().any(|f| f == feature)
    }
}
