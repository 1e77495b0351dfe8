//! Our own `MeshSettings`.

use super::schema::{
    Schema, boolean, choice, duration, integer, list, object, quantity, says, text, texts,
};
use super::traffic_policy::{connection_pool, retry_budget};

pub fn spec() -> Schema {
    object([
        (
            "outboundTrafficPolicy",
            says(
                "What sidecars do with destinations that nobody has declared.",
                choice(&["allow-any", "registry-only"]),
            ),
        ),
        (
            "accessLog",
            says(
                "Which requests proxies log, unless a proxy's own flag says otherwise.",
                choice(&["off", "errors", "all"]),
            ),
        ),
        (
            "certificateTtl",
            says(
                "How long a workload certificate signed from now on is valid; at least 1m.",
                duration(),
            ),
        ),
        (
            "connectionPool",
            says(
                "For every service where its DestinationRule says nothing, field by field.",
                connection_pool(),
            ),
        ),
        (
            "retryBudget",
            says(
                "For every service whose DestinationRule has none.",
                retry_budget(),
            ),
        ),
        (
            "injection",
            says(
                "What an injected sidecar gets unless its Pod says otherwise.",
                injection(),
            ),
        ),
    ])
}

fn injection() -> Schema {
    let amounts = || object([("cpu", quantity()), ("memory", quantity())]);
    let ports = || list(integer());
    object([
        (
            "nativeSidecar",
            says(
                "An init container that keeps running, rather than a container.",
                boolean(),
            ),
        ),
        (
            "istioInjectionLabel",
            says(
                "A namespace's label istio-injection=enabled counts too; needs the install value injection.istioLabel.",
                boolean(),
            ),
        ),
        (
            "resources",
            object([("requests", amounts()), ("limits", amounts())]),
        ),
        ("logLevel", says("The proxy's log filter.", text())),
        ("workers", says("The proxy's worker threads.", integer())),
        (
            "drainTime",
            says(
                "How long open connections may finish once the Pod ends.",
                duration(),
            ),
        ),
        (
            "drainMinimum",
            says(
                "How long a Pod that is deleted serves at least.",
                duration(),
            ),
        ),
        ("excludeInboundPorts", ports()),
        ("excludeOutboundPorts", ports()),
        ("excludeOutboundCidrs", texts()),
    ])
}
