//! The kinds that the control plane watches, and where the API server has them.

use tasuki_resources::Kind;

/// A kind as the Kubernetes API has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    pub kind: Kind,
    /// Empty for the core group.
    pub group: &'static str,
    /// As in URLs and rules: `virtualservices`.
    pub plural: &'static str,
    /// Those that `tasuki_resources` reads, the preferred one first.
    pub versions: &'static [&'static str],
    /// Defined by a CustomResourceDefinition, and so perhaps not there.
    pub custom: bool,
}

const CORE: &[&str] = &["v1"];
const NETWORKING: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const SECURITY: &[&str] = &["v1", "v1beta1"];

/// All of them.
pub const WATCHED: &[Watched] = &[
    own(Kind::Namespace, "", "namespaces"),
    own(Kind::Service, "", "services"),
    own(Kind::Pod, "", "pods"),
    own(Kind::EndpointSlice, "discovery.k8s.io", "endpointslices"),
    networking(Kind::VirtualService, "virtualservices"),
    networking(Kind::DestinationRule, "destinationrules"),
    networking(Kind::ServiceEntry, "serviceentries"),
    networking(Kind::Gateway, "gateways"),
    security(Kind::AuthorizationPolicy, "authorizationpolicies"),
    security(Kind::PeerAuthentication, "peerauthentications"),
    Watched {
        kind: Kind::MeshSettings,
        group: "tasuki.dev",
        plural: "meshsettings",
        versions: &["v1alpha1"],
        custom: true,
    },
];

const fn own(kind: Kind, group: &'static str, plural: &'static str) -> Watched {
    Watched {
        kind,
        group,
        plural,
        versions: CORE,
        custom: false,
    }
}

const fn networking(kind: Kind, plural: &'static str) -> Watched {
    Watched {
        kind,
        group: "networking.istio.io",
        plural,
        versions: NETWORKING,
        custom: true,
    }
}

const fn security(kind: Kind, plural: &'static str) -> Watched {
    Watched {
        kind,
        group: "security.istio.io",
        plural,
        versions: SECURITY,
        custom: true,
    }
}

impl Watched {
    /// `virtualservices.networking.istio.io`, also the name of the CustomResourceDefinition; `pods` in the core group.
    pub fn full_name(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// What an object of this kind says as its `apiVersion`.
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() {
            version.to_owned()
        } else {
            format!("{}/{version}", self.group)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_is_read() {
        for watched in WATCHED {
            for version in watched.versions {
                let object = serde_json::json!({
                    "apiVersion": watched.api_version(version),
                    "kind": watched.kind.as_str(),
                    "metadata": {"name": "x", "namespace": "y"},
                });
                let documents = tasuki_resources::parse_json(&object);
                let identity = documents[0].identity.as_ref();
                assert_eq!(identity.map(|key| key.kind), Some(watched.kind));
                let problems = &documents[0].problems;
                assert!(
                    problems.iter().all(|p| p.field != "apiVersion"),
                    "{problems:?}"
                );
            }
        }
    }

    #[test]
    fn names_are_kubernetes_own() {
        let name = |kind| {
            let found = WATCHED.iter().find(|watched| watched.kind == kind);
            found.map(Watched::full_name).unwrap_or_default()
        };
        assert_eq!(name(Kind::Pod), "pods");
        assert_eq!(name(Kind::Gateway), "gateways.networking.istio.io");
    }
}
