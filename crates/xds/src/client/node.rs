//! Who a client says it is.

use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};

use crate::proto::Node;
use crate::{DEPARTURE_FEATURE, TASUKI_FEATURE};

/// Who this client says it is; becomes the `Node` of the first request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// `sidecar~NS/NAME` or `gateway~NS/NAME`.
    pub id: String,
    /// `node.cluster`.
    pub cluster: String,
    /// String metadata: `POD_NAME`, `POD_NAMESPACE`, `GATEWAY`.
    pub metadata: Vec<(String, String)>,
    /// Shown in `/debug/clients`.
    pub version: String,
}

impl NodeInfo {
    /// A Tasuki sidecar of this pod.
    pub fn sidecar(namespace: &str, pod: &str, version: &str) -> Self {
        Self {
            id: format!("sidecar~{namespace}/{pod}"),
            cluster: format!("{namespace}/{pod}"),
            metadata: vec![
                ("POD_NAME".to_owned(), pod.to_owned()),
                ("POD_NAMESPACE".to_owned(), namespace.to_owned()),
            ],
            version: version.to_owned(),
        }
    }

    /// A Tasuki gateway serving this Gateway resource.
    pub fn gateway(namespace: &str, gateway: &str, version: &str) -> Self {
        Self {
            id: format!("gateway~{namespace}/{gateway}"),
            cluster: format!("{namespace}/{gateway}"),
            metadata: vec![("GATEWAY".to_owned(), format!("{namespace}/{gateway}"))],
            version: version.to_owned(),
        }
    }

    pub(super) fn to_node(&self) -> Node {
        let text = |t: &String| Value {
            kind: Some(Kind::StringValue(t.clone())),
        };
        let fields = self
            .metadata
            .iter()
            .map(|(k, v)| (k.clone(), text(v)))
            .collect();
        Node {
            id: self.id.clone(),
            cluster: self.cluster.clone(),
            metadata: Some(Struct { fields }),
            user_agent_name: "tasuki-proxy".to_owned(),
            user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(
                self.version.clone(),
            )),
            client_features: vec![TASUKI_FEATURE.to_owned(), DEPARTURE_FEATURE.to_owned()],
            ..Node::default()
        }
    }
}
