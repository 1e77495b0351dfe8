//! AuthorizationPolicies as RBAC filters, as Istio's pilot writes them (`pilot/pkg/security/authz`).
//!
//! On connections that are not HTTP, rules with fields that only HTTP has never allow; in DENY and AUDIT
//! those fields are left out, so that more is denied (semantics section 3).

use std::sync::Arc;

use tasuki_resources::authorization_policy::{
    Action, AuthorizationPolicy, Condition, Operation, PathPattern, Pattern, Rule, Source, Values,
};
use tasuki_resources::{Cidr, NamespacedName};
use tasuki_xds::model::matching::{self, HeaderMatch, StringMatch, ValueMatch};
use tasuki_xds::model::rbac::{self, Permission, Policy, Principal, Rbac, RbacAction};

use crate::mesh::Mesh;

/// Filters of HTTP connections: AUDIT, DENY, ALLOW.
pub fn http(policies: &[Arc<AuthorizationPolicy>], mesh: &Mesh) -> Vec<Rbac> {
    filters(
        policies,
        &Writer {
            trust_domain: mesh.settings.trust_domain.as_str(),
            http: true,
        },
    )
}

/// Filters of other connections.
pub fn tcp(policies: &[Arc<AuthorizationPolicy>], mesh: &Mesh) -> Vec<Rbac> {
    filters(
        policies,
        &Writer {
            trust_domain: mesh.settings.trust_domain.as_str(),
            http: false,
        },
    )
}

fn filters(policies: &[Arc<AuthorizationPolicy>], writer: &Writer<'_>) -> Vec<Rbac> {
    let order = [
        (Action::Audit, RbacAction::Log),
        (Action::Deny, RbacAction::Deny),
        (Action::Allow, RbacAction::Allow),
    ];
    order
        .into_iter()
        .filter_map(|(action, rbac_action)| {
            let mut of_action = policies.iter().filter(|p| p.action == action).peekable();
            of_action.peek()?;
            let mut written: Vec<Policy> =
                of_action.flat_map(|policy| writer.policy(policy)).collect();
            written.sort_by(|a, b| a.name.cmp(&b.name));
            let needless = written.is_empty() && action != Action::Allow;
            (!needless).then_some(Rbac {
                action: rbac_action,
                policies: written,
            })
        })
        .collect()
}

/// What writing depends on.
struct Writer<'a> {
    trust_domain: &'a str,
    http: bool,
}

impl Writer<'_> {
    fn policy<'p>(&'p self, policy: &'p AuthorizationPolicy) -> impl Iterator<Item = Policy> + 'p {
        policy
            .rules
            .iter()
            .enumerate()
            .filter_map(move |(index, rule)| {
                if !self.http && policy.action == Action::Allow && needs_http(rule) {
                    return None;
                }
                let name = &policy.meta.name;
                Some(Policy {
                    name: format!("ns[{}]-policy[{}]-rule[{index}]", name.namespace, name.name),
                    permissions: self.permissions(rule),
                    principals: self.principals(rule),
                })
            })
    }

    /// `to` AND the conditions about the destination.
    fn permissions(&self, rule: &Rule) -> Vec<Permission> {
        let conditions: Vec<Permission> = rule
            .when
            .iter()
            .filter_map(|c| self.condition_permission(c))
            .collect();
        let each = |operation: &Operation| {
            let mut all = self.operation(operation);
            all.extend(conditions.iter().cloned());
            all_permissions(all)
        };
        if rule.to.is_empty() {
            vec![all_permissions(conditions)]
        } else {
            rule.to.iter().map(each).collect()
        }
    }

    fn operation(&self, operation: &Operation) -> Vec<Permission> {
        let mut all = Vec::new();
        if self.http {
            permission(&mut all, &operation.hosts, |p| {
                Permission::Header(header(":authority", string(p), true))
            });
            permission(&mut all, &operation.methods, |p| {
                Permission::Header(header(":method", string(p), false))
            });
            permission(&mut all, &operation.paths, path);
        }
        permission(&mut all, &operation.ports, |port| {
            Permission::DestinationPort(*port)
        });
        all
    }

    fn condition_permission(&self, condition: &Condition) -> Option<Permission> {
        let mut all = Vec::new();
        match condition {
            Condition::DestinationIp(values) => {
                permission(&mut all, values, |c| Permission::DestinationIp(cidr(c)))
            }
            Condition::DestinationPort(values) => {
                permission(&mut all, values, |p| Permission::DestinationPort(*p))
            }
            Condition::Sni(values) => permission(&mut all, values, |p| {
                Permission::ServerName(matcher(p, false))
            }),
            Condition::SourceIp(_)
            | Condition::SourceNamespace(_)
            | Condition::SourcePrincipal(_)
            | Condition::SourceServiceAccount(_)
            | Condition::SourceTrustDomain(_)
            | Condition::Header { .. }
            | Condition::RequestAuth { .. } => return None,
        }
        Some(all_permissions(all))
    }

    /// `from` AND the conditions about the source and about the request's headers.
    fn principals(&self, rule: &Rule) -> Vec<Principal> {
        let conditions: Vec<Principal> = rule
            .when
            .iter()
            .filter_map(|c| self.condition_principal(c))
            .collect();
        let each = |source: &Source| {
            let mut all = self.source(source);
            all.extend(conditions.iter().cloned());
            all_principals(all)
        };
        if rule.from.is_empty() {
            vec![all_principals(conditions)]
        } else {
            rule.from.iter().map(each).collect()
        }
    }

    fn source(&self, source: &Source) -> Vec<Principal> {
        let Source {
            principals,
            request_principals,
            namespaces,
            service_accounts,
            trust_domains,
            ip_blocks,
        } = source;
        let mut all = Vec::new();
        principal(&mut all, principals, |p| self.identity(p));
        if self.http {
            principal(&mut all, request_principals, |_| nobody());
        }
        principal(&mut all, namespaces, |p| self.namespace(p));
        principal(&mut all, service_accounts, |name| self.account(name));
        principal(&mut all, trust_domains, trust_domain);
        principal(&mut all, ip_blocks, |block| {
            Principal::DirectIp(cidr(block))
        });
        all
    }

    fn condition_principal(&self, condition: &Condition) -> Option<Principal> {
        let mut all = Vec::new();
        match condition {
            Condition::SourceIp(values) => {
                principal(&mut all, values, |c| Principal::DirectIp(cidr(c)))
            }
            Condition::SourceNamespace(values) => {
                principal(&mut all, values, |p| self.namespace(p))
            }
            Condition::SourcePrincipal(values) => principal(&mut all, values, |p| self.identity(p)),
            Condition::SourceServiceAccount(values) => {
                principal(&mut all, values, |name| self.account(name))
            }
            Condition::SourceTrustDomain(values) => principal(&mut all, values, trust_domain),
            Condition::Header { name, values } if self.http => {
                principal(&mut all, values, |p| {
                    Principal::Header(header(name, string(p), false))
                });
            }
            Condition::RequestAuth { values, .. } if self.http => {
                principal(&mut all, values, |_| nobody())
            }
            Condition::Header { .. }
            | Condition::RequestAuth { .. }
            | Condition::DestinationIp(_)
            | Condition::DestinationPort(_)
            | Condition::Sni(_) => return None,
        }
        Some(all_principals(all))
    }

    /// `TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`; `cluster.local` stands for whatever the trust domain is called.
    fn identity(&self, pattern: &Pattern) -> Principal {
        let ours = |text: &str| match text.strip_prefix("cluster.local/") {
            Some(rest) => format!("spiffe://{}/{rest}", self.trust_domain),
            None => format!("spiffe://{text}"),
        };
        authenticated(match pattern {
            Pattern::Exact(text) => matching::Pattern::Exact(ours(text)),
            Pattern::Prefix(text) => matching::Pattern::Prefix(ours(text)),
            Pattern::Suffix(text) => matching::Pattern::Suffix(text.clone()),
            Pattern::Present => return Principal::Authenticated(None),
        })
    }

    fn namespace(&self, pattern: &Pattern) -> Principal {
        // The roots vouch for one trust domain only, so its name need not be matched again.
        authenticated(match pattern {
            Pattern::Exact(namespace) => matching::Pattern::Prefix(format!(
                "spiffe://{}/ns/{namespace}/sa/",
                self.trust_domain
            )),
            Pattern::Prefix(start) => {
                matching::Pattern::Prefix(format!("spiffe://{}/ns/{start}", self.trust_domain))
            }
            Pattern::Suffix(end) => {
                matching::Pattern::Regex(format!("spiffe://[^/]+/ns/[^/]*{}/sa/.+", escape(end)))
            }
            Pattern::Present => return Principal::Authenticated(None),
        })
    }

    fn account(&self, name: &NamespacedName) -> Principal {
        let NamespacedName { namespace, name } = name;
        authenticated(matching::Pattern::Exact(format!(
            "spiffe://{}/ns/{namespace}/sa/{name}",
            self.trust_domain
        )))
    }
}

fn needs_http(rule: &Rule) -> bool {
    rule.to.iter().any(Operation::needs_http)
        || rule.when.iter().any(Condition::needs_http)
        || rule
            .from
            .iter()
            .any(|source| !source.request_principals.is_empty())
}

fn authenticated(pattern: matching::Pattern) -> Principal {
    Principal::Authenticated(Some(StringMatch {
        pattern,
        ignore_case: false,
    }))
}

fn trust_domain(pattern: &Pattern) -> Principal {
    authenticated(match pattern {
        Pattern::Exact(domain) => matching::Pattern::Prefix(format!("spiffe://{domain}/")),
        Pattern::Prefix(start) => matching::Pattern::Prefix(format!("spiffe://{start}")),
        Pattern::Suffix(end) => {
            matching::Pattern::Regex(format!("spiffe://[^/]*{}/.+", escape(end)))
        }
        Pattern::Present => return Principal::Authenticated(None),
    })
}

/// There are no JWTs yet, so nothing has a request principal.
fn nobody() -> Principal {
    Principal::Not(Box::new(Principal::Any))
}

fn path(pattern: &PathPattern) -> Permission {
    match pattern {
        PathPattern::Template(template) => Permission::PathTemplate(template.clone()),
        PathPattern::Text(Pattern::Present) => Permission::Path(non_empty()),
        PathPattern::Text(text) => Permission::Path(matcher(text, false)),
    }
}

fn header(name: &str, value: StringMatch, ignore_case: bool) -> HeaderMatch {
    // Envoy leaves regexes case-sensitive.
    let regex = matches!(value.pattern, matching::Pattern::Regex(_));
    let value = StringMatch {
        ignore_case: ignore_case && !regex,
        ..value
    };
    HeaderMatch {
        name: name.to_owned(),
        value: ValueMatch::String(value),
        invert: false,
        missing_as_empty: false,
    }
}

fn string(pattern: &Pattern) -> StringMatch {
    matcher(pattern, false)
}

fn matcher(pattern: &Pattern, ignore_case: bool) -> StringMatch {
    let pattern = match pattern {
        Pattern::Exact(text) => matching::Pattern::Exact(text.clone()),
        Pattern::Prefix(text) => matching::Pattern::Prefix(text.clone()),
        Pattern::Suffix(text) => matching::Pattern::Suffix(text.clone()),
        Pattern::Present => return non_empty(),
    };
    StringMatch {
        pattern,
        ignore_case,
    }
}

fn non_empty() -> StringMatch {
    StringMatch {
        pattern: matching::Pattern::Regex(".+".to_owned()),
        ignore_case: false,
    }
}

/// For a regex in which the text stands for itself.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 4);
    for c in text.chars() {
        if !c.is_ascii_alphanumeric() && c != '-' && c != '_' {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn cidr(block: &Cidr) -> rbac::Cidr {
    rbac::Cidr {
        address: block.address,
        prefix_len: block.prefix_len,
    }
}

/// Adds `any of` and `none of` as conditions.
fn permission<T>(all: &mut Vec<Permission>, values: &Values<T>, one: impl Fn(&T) -> Permission) {
    if !values.any.is_empty() {
        all.push(Permission::OneOf(values.any.iter().map(&one).collect()));
    }
    if !values.none.is_empty() {
        all.push(Permission::Not(Box::new(Permission::OneOf(
            values.none.iter().map(&one).collect(),
        ))));
    }
}

fn principal<T>(all: &mut Vec<Principal>, values: &Values<T>, one: impl Fn(&T) -> Principal) {
    if !values.any.is_empty() {
        all.push(Principal::OneOf(values.any.iter().map(&one).collect()));
    }
    if !values.none.is_empty() {
        all.push(Principal::Not(Box::new(Principal::OneOf(
            values.none.iter().map(&one).collect(),
        ))));
    }
}

fn all_permissions(mut all: Vec<Permission>) -> Permission {
    match all.len() {
        0 => Permission::Any,
        1 => all.remove(0),
        _ => Permission::All(all),
    }
}

fn all_principals(mut all: Vec<Principal>) -> Principal {
    match all.len() {
        0 => Principal::Any,
        1 => all.remove(0),
        _ => Principal::All(all),
    }
}
