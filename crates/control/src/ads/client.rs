//! Who a client is: its kind, dialect, labels and proven identity (contract section 2).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use tasuki_identity::SpiffeId;
use tasuki_xds::TASUKI_FEATURE;
use tasuki_xds::codec::Dialect;
use tasuki_xds::proto::{Node, metadata_labels, metadata_text};
use tonic::Status;

use super::{Caller, Catalog, PodFacts, Presented, ProvenPod};

/// Features that gRPC clients announce.
const GRPC_FEATURES: [&str; 2] = [
    "envoy.lb.does_not_support_overprovisioning",
    "xds.config.resource-in-sotw",
];

/// `node.metadata` of a foreign client: its namespace.
const NAMESPACE_KEYS: [&str; 2] = ["NAMESPACE", "POD_NAMESPACE"];

/// `node.metadata` of a gRPC client that has certificates: the provider instance of its bootstrap (gRFC A29).
const GRPC_PROVIDER: &str = "CERTIFICATE_PROVIDER_INSTANCE";

/// Longest `node.id` that is kept.
const MAX_NODE_ID: usize = 512;

/// Bytes of labels, features and other claims that are kept: for as long as the stream lives, and in what is remembered
/// of its views. Strangers may open streams, so it must not be theirs to say how much.
const MAX_CLAIMS: usize = 16 << 10;

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
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
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

impl ClientKind {
    /// One word for people.
    pub fn word(&self) -> &'static str {
        match self {
            ClientKind::Sidecar { .. } => "sidecar",
            ClientKind::TasukiGateway { .. } => "gateway",
            ClientKind::EnvoyGateway => "envoy",
            ClientKind::Grpc => "grpc",
        }
    }
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
    /// A foreign client's Pod, as far as is known: its labels are followed.
    pub follows: Option<NsName>,
    /// Proven by token or certificate. `None`: foreign, never gets `inbound` or secrets.
    pub identity: Option<SpiffeId>,
    /// The Pod that was proven, on platforms that have such a thing.
    pub proven: Option<ProvenPod>,
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

    /// Says who sent `node`, given what the connection proved.
    ///
    /// # Errors
    /// PERMISSION_DENIED for a claim that the identity does not cover, UNAUTHENTICATED for a Tasuki proxy
    /// without identity, INVALID_ARGUMENT for a node that says nothing usable.
    pub fn identify(
        node: &Node,
        caller: Option<Caller>,
        presented: &Presented,
        catalog: &dyn Catalog,
    ) -> Result<Self, Status> {
        if node.id.len() > MAX_NODE_ID {
            return Err(Status::invalid_argument("node.id is too long"));
        }
        if claims(node) > MAX_CLAIMS {
            return Err(Status::invalid_argument(
                "node: more than 16 KiB of features and labels",
            ));
        }
        let announces = |feature: &str| node.client_features.iter().any(|f| f == feature);
        if announces(TASUKI_FEATURE) {
            return tasuki(node, caller, catalog);
        }
        let grpc =
            node.user_agent_name.starts_with("gRPC") || GRPC_FEATURES.into_iter().any(announces);
        if grpc && node.user_agent_name != "envoy" {
            return Ok(proxyless(node, caller, presented, catalog));
        }
        envoy(node, caller, catalog)
    }

    /// The same client as it is now, by what `pods` says of each ([`Catalog::pod`]).
    ///
    /// # Errors
    /// PERMISSION_DENIED when the pod that was proven, or a sidecar's, has long been gone or is somebody else's by now.
    pub fn refresh(&self, pods: impl Fn(&NsName) -> Option<PodFacts>) -> Result<Self, Status> {
        if let Some(proven) = &self.proven {
            still(proven, &pods)?;
        }
        let (pod, facts) = match (&self.kind, &self.follows) {
            (ClientKind::Sidecar { pod }, _) => (pod, pods(pod).ok_or_else(|| no_pod(pod))?),
            // What a foreign client was last known to be it stays.
            (_, Some(pod)) => match pods(pod) {
                Some(facts) => (pod, facts),
                None => return Ok(self.clone()),
            },
            (_, None) => return Ok(self.clone()),
        };
        if let (Some(identity), false) = (&self.identity, self.kind == ClientKind::Grpc) {
            check_account(pod, &facts, identity)?;
        }
        Ok(Self {
            labels: facts.labels,
            ..self.clone()
        })
    }
}

/// Whether the Pod is there, and the very one.
fn still(proven: &ProvenPod, pods: impl Fn(&NsName) -> Option<PodFacts>) -> Result<(), Status> {
    let pod = &proven.name;
    let facts = pods(pod).ok_or_else(|| no_pod(pod))?;
    if facts.uid.is_some_and(|uid| uid != proven.uid) {
        return Err(Status::permission_denied(format!(
            "Pod {pod} is another one by now"
        )));
    }
    Ok(())
}

fn no_pod(pod: &NsName) -> Status {
    Status::permission_denied(format!("there is no Pod {pod}"))
}

fn tasuki(node: &Node, caller: Option<Caller>, catalog: &dyn Catalog) -> Result<Client, Status> {
    let caller = caller
        .ok_or_else(|| Status::unauthenticated("a Tasuki proxy needs a token or a certificate"))?;
    let identity = caller.id.clone();
    let claim = |prefix: &str| node.id.strip_prefix(prefix).map(str::parse::<NsName>);
    let client = |kind, namespace: &str, labels| Client {
        kind,
        dialect: Dialect::Tasuki,
        namespace: namespace.to_owned(),
        labels,
        follows: None,
        identity: Some(identity.clone()),
        proven: caller.pod.clone(),
        node_id: node.id.clone(),
        features: node.client_features.clone(),
    };
    if let Some(pod) = claim("sidecar~") {
        let pod = pod.map_err(|reason| Status::invalid_argument(format!("node.id: {reason}")))?;
        caller.check_claim(&pod)?;
        let facts = catalog.pod(&pod).ok_or_else(|| no_pod(&pod))?;
        check_account(&pod, &facts, &identity)?;
        let namespace = pod.namespace.clone();
        return Ok(client(
            ClientKind::Sidecar { pod },
            &namespace,
            facts.labels,
        ));
    }
    if let Some(gateway) = claim("gateway~") {
        let gateway =
            gateway.map_err(|reason| Status::invalid_argument(format!("node.id: {reason}")))?;
        check_gateway(&gateway, &identity)?;
        let namespace = gateway.namespace.clone();
        return Ok(client(
            ClientKind::TasukiGateway { gateway },
            &namespace,
            BTreeMap::new(),
        ));
    }
    Err(Status::invalid_argument(
        "node.id: neither sidecar~NAMESPACE/POD nor gateway~NAMESPACE/GATEWAY",
    ))
}

/// A Gateway names no service account, so its namespace has to do: whoever may run something there may serve it.
fn check_gateway(gateway: &NsName, identity: &SpiffeId) -> Result<(), Status> {
    if identity.namespace() == gateway.namespace {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "Gateway {gateway} may be served by service accounts of namespace {} only, not by {identity}",
        gateway.namespace
    )))
}

fn check_account(pod: &NsName, facts: &PodFacts, identity: &SpiffeId) -> Result<(), Status> {
    if identity.namespace() == pod.namespace && identity.service_account() == facts.service_account
    {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "Pod {pod} runs as {}/{}, not as {identity}",
        pod.namespace, facts.service_account
    )))
}

fn proxyless(
    node: &Node,
    caller: Option<Caller>,
    presented: &Presented,
    catalog: &dyn Catalog,
) -> Client {
    let (identity, proven) = split(caller);
    let by_address = presented
        .connection
        .remote
        .and_then(|remote| catalog.pod_by_address(remote.ip()));
    let claimed = claimed_namespace(node);
    let (namespace, labels, follows) = match by_address {
        Some((pod, facts)) => (pod.namespace.clone(), facts.labels, Some(pod)),
        None => (claimed, metadata_labels(node, "LABELS"), None),
    };
    Client {
        kind: ClientKind::Grpc,
        dialect: Dialect::Grpc {
            provider: metadata_text(node, GRPC_PROVIDER),
        },
        namespace,
        labels,
        follows,
        identity,
        proven,
        node_id: node.id.clone(),
        features: node.client_features.clone(),
    }
}

/// The identity and the Pod.
fn split(caller: Option<Caller>) -> (Option<SpiffeId>, Option<ProvenPod>) {
    match caller {
        Some(caller) => (Some(caller.id), caller.pod),
        None => (None, None),
    }
}

/// Bytes of what is kept of a node beside its id.
fn claims(node: &Node) -> usize {
    let features = node.client_features.iter().map(String::len);
    let labels = metadata_labels(node, "LABELS");
    let labels = labels.iter().map(|(name, value)| name.len() + value.len());
    let texts = NAMESPACE_KEYS.into_iter().chain([GRPC_PROVIDER]);
    let texts = texts.filter_map(|key| metadata_text(node, key).map(|text| text.len()));
    features.chain(labels).chain(texts).sum()
}

fn claimed_namespace(node: &Node) -> String {
    NAMESPACE_KEYS
        .into_iter()
        .find_map(|key| metadata_text(node, key))
        .unwrap_or_else(|| "default".to_owned())
}

/// Labels only choose which Gateways a foreign gateway serves, so its word is taken for them; what is served
/// under an identity is checked against the pod.
fn envoy(node: &Node, caller: Option<Caller>, catalog: &dyn Catalog) -> Result<Client, Status> {
    let (address, named) = router_id(&node.id);
    if let (Some(caller), Some(pod)) = (&caller, &named) {
        caller.check_claim(pod)?;
    }
    let secrets = caller.as_ref().is_some_and(|caller| caller.may_renew);
    let (identity, proven) = split(caller);
    let by_name = named
        .as_ref()
        .and_then(|pod| catalog.pod(pod).map(|facts| (pod.clone(), facts)));
    let pod = by_name.or_else(|| address.and_then(|ip| catalog.pod_by_address(ip)));
    if let (Some((pod, facts)), Some(identity)) = (&pod, &identity) {
        check_account(pod, facts, identity)?;
    }
    // A Pod that is not known yet is followed by the name it was given; an address may be another's by then.
    let (follows, labels) = match (pod, named) {
        (Some((pod, facts)), _) => (Some(pod), facts.labels),
        (None, named) => (named, metadata_labels(node, "LABELS")),
    };
    let namespace = match &follows {
        Some(pod) => pod.namespace.clone(),
        None => claimed_namespace(node),
    };
    Ok(Client {
        kind: ClientKind::EnvoyGateway,
        dialect: Dialect::Envoy { secrets },
        namespace,
        labels,
        follows,
        identity,
        proven,
        node_id: node.id.clone(),
        features: node.client_features.clone(),
    })
}

/// `router~IP~POD.NS~DOMAIN`, as Istio's agents write it.
fn router_id(id: &str) -> (Option<IpAddr>, Option<NsName>) {
    let mut parts = id.split('~').skip(1);
    let address = parts.next().and_then(|ip| ip.parse().ok());
    let pod = parts
        .next()
        .and_then(|pod| pod.rsplit_once('.'))
        .filter(|(name, ns)| !name.is_empty() && !ns.is_empty());
    let pod = pod.map(|(name, namespace)| NsName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    });
    (address, pod)
}
