//! What the control plane's ServiceAccount may do: every rule beside its reason. The manifests, the chart and the tests take
//! it from here, so nothing else is ever granted.

use crate::names::{self, CONTROL};

/// One rule of a ClusterRole or Role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// API group; empty for the core group.
    pub group: &'static str,
    pub resources: &'static [&'static str],
    /// `resourceNames`; empty for all.
    pub names: &'static [&'static str],
    pub verbs: &'static [&'static str],
    /// What it is needed for.
    pub reason: &'static str,
}

/// Reading and following.
const WATCH: &[&str] = &["get", "list", "watch"];

/// Rules for the whole cluster: a ClusterRole, bound for the whole cluster.
pub const CLUSTER: &[&[Rule]] = &[SOURCE, IDENTITY, ROOTS, WEBHOOK];

/// Rules within the control plane's own namespace: a Role.
pub const NAMESPACE: &[&[Rule]] = &[LEADERSHIP, AUTHORITY];

/// The source: what is declared. `watched::WATCHED` has the same kinds one by one.
pub const SOURCE: &[Rule] = &[
    Rule {
        group: "",
        resources: &["namespaces", "services", "pods"],
        names: &[],
        verbs: WATCH,
        reason: "the registry of services and workloads",
    },
    Rule {
        group: "discovery.k8s.io",
        resources: &["endpointslices"],
        names: &[],
        verbs: WATCH,
        reason: "the endpoints of services",
    },
    Rule {
        group: "networking.istio.io",
        resources: &[
            "virtualservices",
            "destinationrules",
            "serviceentries",
            "gateways",
        ],
        names: &[],
        verbs: WATCH,
        reason: "routes and destinations",
    },
    Rule {
        group: "security.istio.io",
        resources: &["authorizationpolicies", "peerauthentications"],
        names: &[],
        verbs: WATCH,
        reason: "who may call whom",
    },
    Rule {
        group: "tasuki.dev",
        resources: &["meshsettings"],
        names: &[],
        verbs: WATCH,
        reason: "what is the same for the whole mesh",
    },
    Rule {
        group: "apiextensions.k8s.io",
        resources: &["customresourcedefinitions"],
        names: &[
            "virtualservices.networking.istio.io",
            "destinationrules.networking.istio.io",
            "serviceentries.networking.istio.io",
            "gateways.networking.istio.io",
            "authorizationpolicies.security.istio.io",
            "peerauthentications.security.istio.io",
            "meshsettings.tasuki.dev",
        ],
        verbs: &["get"],
        reason: "whether a kind is there, in which versions, and whether it is being removed",
    },
];

/// The webhooks, besides reading the namespaces of Pods.
pub const WEBHOOK: &[Rule] = &[Rule {
    group: "admissionregistration.k8s.io",
    resources: &[
        "mutatingwebhookconfigurations",
        "validatingwebhookconfigurations",
    ],
    names: &[CONTROL],
    verbs: &["get", "list", "watch", "patch"],
    reason: "the roots by which the API server knows the webhooks",
}];

/// Who calls.
pub const IDENTITY: &[Rule] = &[Rule {
    group: "authentication.k8s.io",
    resources: &["tokenreviews"],
    names: &[],
    verbs: &["create"],
    reason: "whether a sidecar's token is good, and whose it is",
}];

/// What a sidecar trusts at its start.
pub const ROOTS: &[Rule] = &[Rule {
    group: "",
    resources: &["configmaps"],
    names: &[names::ROOTS_CONFIG_MAP],
    verbs: &["get", "list", "watch", "create", "patch"],
    reason: "the trusted roots in each namespace; made by server-side apply, whose creation has a name to check",
}];

/// One replica leads. Each has a Lease of its own besides, by which the leader knows how far it is with a rotation.
pub const LEADERSHIP: &[Rule] = &[Rule {
    group: "coordination.k8s.io",
    resources: &["leases"],
    names: &[],
    verbs: &["get", "list", "create", "update", "patch", "delete"],
    reason: "which replica leads, and how far each is with a rotation",
}];

/// The certificate authority: Secrets of the control plane's own namespace only.
pub const AUTHORITY: &[Rule] = &[
    Rule {
        group: "",
        resources: &["secrets"],
        names: &[names::CA_SECRET],
        verbs: &["get", "list", "watch", "patch"],
        reason: "the authority that replicas share",
    },
    Rule {
        group: "",
        resources: &["secrets"],
        names: &[],
        verbs: &["create"],
        reason: "making that authority: a creation has no name yet that could be checked",
    },
    Rule {
        group: "",
        resources: &["secrets"],
        names: &[names::PLUGIN_SECRET],
        verbs: WATCH,
        reason: "a root of one's own",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watched::WATCHED;

    #[test]
    fn the_source_may_read_what_is_watched_and_nothing_else() {
        let readable = |rule: &&Rule| rule.group != "apiextensions.k8s.io";
        let granted = SOURCE.iter().filter(readable).flat_map(|rule| {
            assert_eq!((rule.names, rule.verbs), (&[][..], WATCH));
            rule.resources.iter().map(|name| (rule.group, *name))
        });
        let mut granted: Vec<_> = granted.collect();
        granted.sort_unstable();
        let mut wanted: Vec<_> = WATCHED.iter().map(|w| (w.group, w.plural)).collect();
        wanted.sort_unstable();
        assert_eq!(granted, wanted);

        let definitions = SOURCE.iter().find(|rule| !readable(rule)).unwrap();
        let mut named = definitions.names.to_vec();
        named.sort_unstable();
        let custom = WATCHED.iter().filter(|watched| watched.custom);
        let mut wanted: Vec<_> = custom.map(|watched| watched.full_name()).collect();
        wanted.sort_unstable();
        assert_eq!(named, wanted);
    }
}
