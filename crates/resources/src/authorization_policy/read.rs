//! Reading an AuthorizationPolicy, with the checks of Istio's webhook.

use super::{
    Action, AuthorizationPolicy, Condition, Operation, PathPattern, Pattern, Rule, Source, Values,
};
use crate::cidr::Cidr;
use crate::fields::{Fields, Value, header_name, is_dns_subdomain};
use crate::object::{Metadata, NamespacedName};
use crate::peer_authentication::read_selector;

/// The annotation that has Istio evaluate and record a policy without enforcing it.
const DRY_RUN: &str = "istio.io/dry-run";

/// Said where identities of JWTs are asked for.
const NO_JWT: &str = "never matches: JWTs are not honoured yet";

pub(crate) fn read(spec: Option<Fields<'_>>, meta: Metadata) -> Option<AuthorizationPolicy> {
    let Some(spec) = spec else {
        // As `spec: {}`: allows nothing.
        return Some(AuthorizationPolicy {
            meta,
            selector: Default::default(),
            action: Action::Allow,
            rules: Vec::new(),
        });
    };
    if spec.count(&["selector", "targetRef", "targetRefs"]) > 1 {
        spec.error_at(
            "selector",
            "only one of targetRefs or selector can be set",
            "",
        );
    }
    spec.not_honoured(&["targetRef", "targetRefs"]);
    let selector = read_selector(&spec);
    let action = spec.get("action").map(|v| read_action(&v));
    match spec.get("provider") {
        Some(provider) if action != Some(None) => {
            provider.error("belongs to action CUSTOM only", "remove it")
        }
        Some(provider) => provider.not_honoured(""),
        None => {}
    }
    let action = action.unwrap_or(Some(Action::Allow));
    let rules: Vec<_> = spec
        .get("rules")
        .iter()
        .flat_map(Value::list)
        .filter_map(|v| read_rule(&v))
        .collect();
    if rules.is_empty()
        && !spec.has("rules")
        && matches!(action, Some(Action::Deny | Action::Audit))
    {
        spec.value.warn(
            "has no rules, so it never matches",
            "write rules: [{}] to match everything",
        );
    }
    spec.finish();
    Some(AuthorizationPolicy {
        meta,
        selector,
        action: action?,
        rules,
    })
}

/// Enforcing such a policy is what its author does not want, and reading it to no effect would let him trust a record that
/// nobody makes.
pub(crate) fn refuse_dry_run(root: &Fields<'_>, meta: &Metadata) {
    let annotations = root.get("metadata").and_then(|value| value.fields());
    if let Some(annotations) = annotations.and_then(|fields| fields.get("annotations"))
        && is_dry_run(meta)
    {
        annotations.not_honoured(&format!(
            "{DRY_RUN}: the policy would be evaluated and only recorded"
        ));
    }
}

pub(super) fn is_dry_run(meta: &Metadata) -> bool {
    meta.annotation(DRY_RUN)
        .is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// `None` after a report.
fn read_action(value: &Value<'_>) -> Option<Action> {
    let known = [
        ("ALLOW", Some(Action::Allow)),
        ("DENY", Some(Action::Deny)),
        ("AUDIT", Some(Action::Audit)),
        ("CUSTOM", None),
    ];
    let action = value.choice(&known)?;
    if action.is_none() {
        value.not_honoured("CUSTOM");
    }
    action
}

fn read_rule(value: &Value<'_>) -> Option<Rule> {
    let rule = value.fields()?;
    let from = filled(&rule, "from")
        .iter()
        .filter_map(|v| wrapped(v, "source", read_source))
        .collect();
    let to = filled(&rule, "to")
        .iter()
        .filter_map(|v| wrapped(v, "operation", read_operation))
        .collect();
    let when = filled(&rule, "when")
        .iter()
        .filter_map(read_condition)
        .collect();
    rule.finish();
    Some(Rule { from, to, when })
}

/// A list that is absent or not empty: an empty one could be read as "nobody" or as "anybody".
fn filled<'a>(fields: &Fields<'a>, name: &'static str) -> Vec<Value<'a>> {
    let Some(value) = fields.get(name) else {
        return Vec::new();
    };
    let items = value.list();
    if items.is_empty() {
        value.error("must not be empty", "remove it to match everything");
    }
    items
}

/// The one field inside each entry of `from` and `to`.
fn wrapped<T>(value: &Value<'_>, name: &'static str, read: fn(&Fields<'_>) -> T) -> Option<T> {
    let outer = value.fields()?;
    let inner = outer.require(name);
    outer.finish();
    let inner = inner?.fields()?;
    if inner.is_empty() {
        inner.value.error(
            "must have at least one attribute",
            "leave the list out to match everything",
        );
    }
    let read_value = read(&inner);
    inner.finish();
    Some(read_value)
}

/// `NAME` and `notNAME`.
fn values<T>(
    fields: &Fields<'_>,
    name: &'static str,
    not: &'static str,
    read: impl Fn(&Value<'_>) -> Option<T>,
) -> Values<T> {
    let read_list = |name| filled(fields, name).iter().filter_map(&read).collect();
    Values {
        any: read_list(name),
        none: read_list(not),
    }
}

fn read_source(source: &Fields<'_>) -> Source {
    let accounts = source.count(&["serviceAccounts", "notServiceAccounts"]);
    let others = source.count(&["principals", "notPrincipals", "namespaces", "notNamespaces"]);
    if accounts > 0 && others > 0 {
        source.error_at(
            "serviceAccounts",
            "Cannot set serviceAccounts with namespaces or principals",
            "use two entries of from",
        );
    }
    for name in ["serviceAccounts", "notServiceAccounts"] {
        if let Some(list) = source.get(name).filter(|v| v.list().len() > 16) {
            list.error("has more than 16 entries", "");
        }
    }
    source.not_honoured(&["remoteIpBlocks", "notRemoteIpBlocks"]);
    if let Some(value) = source.get("requestPrincipals") {
        value.warn(NO_JWT, "");
    }
    Source {
        principals: values(source, "principals", "notPrincipals", principal),
        request_principals: values(source, "requestPrincipals", "notRequestPrincipals", pattern),
        namespaces: values(source, "namespaces", "notNamespaces", pattern),
        service_accounts: values(source, "serviceAccounts", "notServiceAccounts", account),
        trust_domains: values(source, "trustDomains", "notTrustDomains", pattern),
        ip_blocks: values(source, "ipBlocks", "notIpBlocks", cidr),
    }
}

fn read_operation(operation: &Fields<'_>) -> Operation {
    Operation {
        hosts: values(operation, "hosts", "notHosts", pattern),
        ports: values(operation, "ports", "notPorts", port),
        methods: values(operation, "methods", "notMethods", pattern),
        paths: values(operation, "paths", "notPaths", path),
    }
}

fn read_condition(value: &Value<'_>) -> Option<Condition> {
    let fields = value.fields()?;
    let key_value = fields.require("key")?;
    let key = key_value.text()?;
    if fields.count(&["values", "notValues"]) == 0 {
        fields.error_at("values", "is missing", "give values or notValues");
    }
    let condition = read_keyed(&fields, &key_value, key);
    // Known even where the key decides that they are not read.
    fields.get("values");
    fields.get("notValues");
    fields.finish();
    condition
}

fn read_keyed(fields: &Fields<'_>, at: &Value<'_>, key: &str) -> Option<Condition> {
    let patterns = || values(fields, "values", "notValues", pattern);
    Some(match key {
        "source.ip" => Condition::SourceIp(values(fields, "values", "notValues", cidr)),
        "source.namespace" => Condition::SourceNamespace(patterns()),
        "source.principal" => {
            Condition::SourcePrincipal(values(fields, "values", "notValues", principal))
        }
        "source.serviceAccount" => {
            Condition::SourceServiceAccount(values(fields, "values", "notValues", account))
        }
        "source.trustDomain" => Condition::SourceTrustDomain(patterns()),
        "destination.ip" => Condition::DestinationIp(values(fields, "values", "notValues", cidr)),
        "destination.port" => {
            Condition::DestinationPort(values(fields, "values", "notValues", port))
        }
        "connection.sni" => Condition::Sni(patterns()),
        "remote.ip" => {
            at.not_honoured(key);
            return None;
        }
        _ => return read_bracketed(fields, at, key),
    })
}

/// Keys with a name in brackets, and families of keys.
fn read_bracketed(fields: &Fields<'_>, at: &Value<'_>, key: &str) -> Option<Condition> {
    let patterns = || values(fields, "values", "notValues", pattern);
    if let Some(rest) = key.strip_prefix("request.headers[") {
        let Some(name) = rest.strip_suffix(']').filter(|name| !name.is_empty()) else {
            at.error(
                format!("{key:?} is not a key"),
                "write request.headers[NAME]",
            );
            return None;
        };
        return Some(Condition::Header {
            name: header_name(at, name)?,
            values: patterns(),
        });
    }
    let jwt = [
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
    ];
    if jwt.contains(&key) || (key.starts_with("request.auth.claims[") && key.ends_with(']')) {
        if fields.has("values") {
            at.warn(NO_JWT, "");
        }
        return Some(Condition::RequestAuth {
            key: key.to_owned(),
            values: patterns(),
        });
    }
    if key.starts_with("experimental.") {
        at.not_honoured(key);
    } else {
        at.error(
            format!("unknown key {key:?}"),
            "known: source.ip, source.namespace, source.principal, source.serviceAccount, source.trustDomain, destination.ip, \
             destination.port, connection.sni, request.headers[NAME]",
        );
    }
    None
}

fn pattern(value: &Value<'_>) -> Option<Pattern> {
    value.text().map(Pattern::parse)
}

/// `TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`, as Istio writes identities.
fn principal(value: &Value<'_>) -> Option<Pattern> {
    if value.text()?.starts_with("spiffe://") {
        value.warn(
            "never matches: principals are written without spiffe://",
            "write TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT",
        );
    }
    pattern(value)
}

fn cidr(value: &Value<'_>) -> Option<Cidr> {
    let text = value.address()?;
    let cidr = Cidr::parse(&text);
    if cidr.is_none() {
        value.error(
            format!("{text:?} is not an IP block"),
            "write 10.0.0.1 or 10.0.0.0/8",
        );
    }
    cidr
}

/// Ports are strings here, as in Istio.
fn port(value: &Value<'_>) -> Option<u16> {
    let text = value.text()?;
    let port = text
        .parse()
        .ok()
        .filter(|port| *port > 0 && !text.starts_with('+'));
    if port.is_none() {
        value.error(format!("{text:?} is not a port"), "write 1 to 65535");
    }
    port
}

fn path(value: &Value<'_>) -> Option<PathPattern> {
    let text = value.text()?;
    match PathPattern::parse(text) {
        Ok(pattern) => Some(pattern),
        Err(reason) => {
            value.error(format!("{text:?}: {reason}"), "");
            None
        }
    }
}

/// `namespace/account`, or `account` in the policy's own namespace.
fn account(value: &Value<'_>) -> Option<NamespacedName> {
    let text = value.text()?;
    let name = match text.split_once('/') {
        None => NamespacedName::new(value.report.namespace.clone(), text),
        Some((namespace, name)) => NamespacedName::new(namespace, name),
    };
    if text.len() > 320 || !is_dns_subdomain(&name.namespace) || !is_dns_subdomain(&name.name) {
        value.error(
            format!("{text:?} is not a service account"),
            "write NAMESPACE/ACCOUNT without wildcards",
        );
        return None;
    }
    Some(name)
}
