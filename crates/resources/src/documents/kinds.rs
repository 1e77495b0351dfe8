//! Which kinds are read, which are known but not honoured, and which are none of the mesh's business.

use crate::object::Kind;

/// What to do with a document of some kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    Read(Kind),
    /// A kind of a mesh API that this version does not act on.
    NotHonoured,
    /// The API group is a mesh API, which has no such kind.
    UnknownKind,
    /// The kind exists, in these versions.
    UnknownVersion(Kind, &'static str),
    /// Not for the mesh.
    Skip,
}

const NETWORKING: &str =
    "networking.istio.io/v1, networking.istio.io/v1beta1 or networking.istio.io/v1alpha3";
const OURS: &str = "tasuki.dev/v1alpha1";
const SECURITY: &str = "security.istio.io/v1 or security.istio.io/v1beta1";

pub fn reading(api_version: &str, kind: &str) -> Reading {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    match group {
        "" => core(version, kind),
        "discovery.k8s.io" => match (kind, version) {
            ("EndpointSlice", "v1") => Reading::Read(Kind::EndpointSlice),
            ("EndpointSlice", _) => {
                Reading::UnknownVersion(Kind::EndpointSlice, "discovery.k8s.io/v1")
            }
            _ => Reading::Skip,
        },
        "networking.istio.io" => {
            let known = match kind {
                "VirtualService" => Kind::VirtualService,
                "DestinationRule" => Kind::DestinationRule,
                "ServiceEntry" => Kind::ServiceEntry,
                "Gateway" => Kind::Gateway,
                "EnvoyFilter" | "ProxyConfig" | "Sidecar" | "WorkloadEntry" | "WorkloadGroup" => {
                    return Reading::NotHonoured;
                }
                _ => return Reading::UnknownKind,
            };
            versioned(known, version, &["v1", "v1beta1", "v1alpha3"], NETWORKING)
        }
        "security.istio.io" => {
            let known = match kind {
                "AuthorizationPolicy" => Kind::AuthorizationPolicy,
                "PeerAuthentication" => Kind::PeerAuthentication,
                "RequestAuthentication" => return Reading::NotHonoured,
                _ => return Reading::UnknownKind,
            };
            versioned(known, version, &["v1", "v1beta1"], SECURITY)
        }
        "telemetry.istio.io" | "extensions.istio.io" => match kind {
            "Telemetry" | "WasmPlugin" | "TrafficExtension" => Reading::NotHonoured,
            _ => Reading::UnknownKind,
        },
        "tasuki.dev" => match kind {
            "MeshSettings" => versioned(Kind::MeshSettings, version, &["v1alpha1"], OURS),
            _ => Reading::UnknownKind,
        },
        // Routes that their author expects to take effect; silence would be worse than a refusal.
        "gateway.networking.k8s.io" | "gateway.networking.x-k8s.io" => Reading::NotHonoured,
        _ => Reading::Skip,
    }
}

fn core(version: &str, kind: &str) -> Reading {
    let known = match kind {
        "Service" => Kind::Service,
        "Pod" => Kind::Pod,
        "Namespace" => Kind::Namespace,
        _ => return Reading::Skip,
    };
    versioned(known, version, &["v1"], "v1")
}

fn versioned(kind: Kind, version: &str, versions: &[&str], written: &'static str) -> Reading {
    if versions.contains(&version) {
        Reading::Read(kind)
    } else {
        Reading::UnknownVersion(kind, written)
    }
}
