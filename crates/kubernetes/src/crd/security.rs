//! `AuthorizationPolicy` and `PeerAuthentication`.

use super::schema::{Schema, choice, list, map, object, text, text_map, texts};

pub fn authorization_policy() -> Schema {
    object([
        ("selector", selector()),
        ("targetRef", target()),
        ("targetRefs", list(target())),
        ("action", choice(&["ALLOW", "DENY", "AUDIT", "CUSTOM"])),
        ("provider", object([("name", text())])),
        ("rules", list(rule())),
    ])
}

pub fn peer_authentication() -> Schema {
    object([
        ("selector", selector()),
        ("mtls", mtls()),
        ("portLevelMtls", map(mtls())),
    ])
}

fn selector() -> Schema {
    object([("matchLabels", text_map())])
}

fn target() -> Schema {
    object([
        ("group", text()),
        ("kind", text()),
        ("name", text()),
        ("namespace", text()),
    ])
}

fn rule() -> Schema {
    let condition = object([("key", text()), ("values", texts()), ("notValues", texts())]);
    object([
        ("from", list(object([("source", source())]))),
        ("to", list(object([("operation", operation())]))),
        ("when", list(condition)),
    ])
}

fn source() -> Schema {
    object([
        ("principals", texts()),
        ("notPrincipals", texts()),
        ("requestPrincipals", texts()),
        ("notRequestPrincipals", texts()),
        ("namespaces", texts()),
        ("notNamespaces", texts()),
        ("serviceAccounts", texts()),
        ("notServiceAccounts", texts()),
        ("trustDomains", texts()),
        ("notTrustDomains", texts()),
        ("ipBlocks", texts()),
        ("notIpBlocks", texts()),
        ("remoteIpBlocks", texts()),
        ("notRemoteIpBlocks", texts()),
    ])
}

fn operation() -> Schema {
    object([
        ("hosts", texts()),
        ("notHosts", texts()),
        ("ports", texts()),
        ("notPorts", texts()),
        ("methods", texts()),
        ("notMethods", texts()),
        ("paths", texts()),
        ("notPaths", texts()),
    ])
}

fn mtls() -> Schema {
    object([(
        "mode",
        choice(&["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]),
    )])
}
