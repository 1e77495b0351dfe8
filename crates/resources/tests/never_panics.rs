//! Whatever the text, parsing returns: no panic, no endless work. Documents are mutated from good ones, so that the readers are
//! reached, and made of noise, so that the parser is.

use proptest::prelude::*;
use tasuki_resources::check::check_texts;
use tasuki_resources::{parse_documents, parse_json};

/// Documents that reach every reader.
const SEEDS: [&str; 4] = [
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: cart, namespace: shop}\nspec:\n  hosts: [cart, \"*.x\"]\n  http:\n  - match: [{uri: {regex: \"/a+\"}, headers: {x-a: {exact: b}}}]\n    retries: {attempts: 3, retryOn: \"5xx,503\", perTryTimeout: 1s}\n    rewrite: {uri: /x}\n    headers: {request: {set: {a: b}}}\n    route: [{destination: {host: cart, subset: v1, port: {number: 80}}, weight: 70}]\n  - redirect: {uri: /, redirectCode: 302}\n",
    "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: cart}\nspec:\n  host: cart\n  trafficPolicy:\n    connectionPool: {tcp: {maxConnections: 1}, http: {http2MaxRequests: 2}}\n    outlierDetection: {interval: 1s}\n    portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE}}]\n  subsets: [{name: v1, labels: {a: b}}]\n---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [\"*\"]}]}\n",
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec:\n  rules:\n  - from: [{source: {principals: [\"*\"], ipBlocks: [10.0.0.0/8]}}]\n    to: [{operation: {paths: [\"/{*}/{**}\"], ports: [\"80\"]}}]\n    when: [{key: \"request.headers[a]\", values: [b]}]\n---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: STRICT}}}\n---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e}\nspec: {hosts: [a.b], addresses: [1.2.3.4, 2001:db8::], resolution: STATIC, ports: [{number: 80, name: http}], endpoints: [{address: 1.2.3.4, ports: {http: 8080}}]}\n",
    "apiVersion: v1\nkind: Service\nmetadata: {name: s, creationTimestamp: 2026-01-01T00:00:00Z}\nspec: {clusterIP: 10.0.0.1, selector: {a: b}, ports: [{name: http, port: 80, targetPort: web}]}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {a: b}}\nspec: {containers: [{name: c, ports: [{containerPort: 80}]}]}\nstatus: {podIP: 10.0.0.2}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: {kubernetes.io/service-name: s}}\naddressType: IPv4\nendpoints: [{addresses: [10.0.0.2]}]\n---\nkind: List\nitems: [{kind: Namespace, apiVersion: v1, metadata: {name: ns}}]\n",
];

/// What is put in the place of something.
const TOKENS: [&str; 22] = [
    "",
    " ",
    "\n",
    "null",
    "~",
    "-1",
    "99999999999999999999",
    "1e309",
    ".nan",
    "true",
    "\"\"",
    "[]",
    "{}",
    "[[]]",
    "*a",
    "&a x",
    "---",
    "!!binary x",
    "\u{0}",
    "\u{feff}",
    "é",
    "*",
];

fn mutate(seed: usize, edits: &[(prop::sample::Index, usize, usize)]) -> String {
    let mut text: Vec<char> = SEEDS[seed].chars().collect();
    for (index, length, token) in edits {
        let at = index.index(text.len() + 1);
        let end = (at + length).min(text.len());
        text.splice(at..end, TOKENS[*token].chars());
    }
    text.into_iter().collect()
}

fn values() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "[a-z0-9.*:/-]{0,12}".prop_map(Into::into),
    ];
    let keys = prop::sample::select(vec![
        "hosts",
        "http",
        "route",
        "destination",
        "host",
        "match",
        "uri",
        "exact",
        "regex",
        "weight",
        "timeout",
        "retries",
        "attempts",
        "gateways",
        "exportTo",
        "rules",
        "from",
        "to",
        "when",
        "source",
        "operation",
        "paths",
        "ports",
        "selector",
        "matchLabels",
        "mtls",
        "mode",
        "portLevelMtls",
        "servers",
        "port",
        "number",
        "name",
        "protocol",
        "endpoints",
        "address",
        "addresses",
        "resolution",
        "trafficPolicy",
        "subsets",
        "tls",
        "labels",
    ]);
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::vec((keys.clone(), inner), 0..6).prop_map(|entries| {
                serde_json::Value::Object(
                    entries
                        .into_iter()
                        .map(|(k, v)| (k.to_owned(), v))
                        .collect(),
                )
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn mutated_documents(seed in 0..SEEDS.len(), edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, 0..TOKENS.len()), 1..6)) {
        let text = mutate(seed, &edits);
        for document in parse_documents("t.yaml", &text) {
            let errors = document.problems.iter().filter(|p| p.is_error()).count();
            prop_assert_eq!(document.object.is_some(), errors == 0, "{}", text);
            prop_assert!(!document.unreadable || document.object.is_none());
        }
        check_texts(&[("t.yaml".to_owned(), text)]);
    }

    #[test]
    fn noise(text in "(?s).{0,200}") {
        parse_documents("t.yaml", &text);
        parse_documents("t.json", &text);
    }

    #[test]
    fn specs_of_every_shape(
        kind in prop::sample::select(vec!["VirtualService", "DestinationRule", "ServiceEntry", "Gateway", "AuthorizationPolicy", "PeerAuthentication", "Service", "Pod"]),
        spec in values(),
    ) {
        let api = match kind {
            "AuthorizationPolicy" | "PeerAuthentication" => "security.istio.io/v1",
            "Service" | "Pod" => "v1",
            _ => "networking.istio.io/v1",
        };
        let object = serde_json::json!({"apiVersion": api, "kind": kind, "metadata": {"name": "x"}, "spec": spec});
        for document in parse_json(&object) {
            prop_assert_eq!(document.object.is_none(), document.problems.iter().any(|p| p.is_error()));
        }
    }
}

#[test]
fn the_seeds_are_good() {
    for seed in SEEDS {
        for document in parse_documents("t.yaml", seed) {
            assert!(document.object.is_some(), "{:?}", document.problems);
        }
    }
}
