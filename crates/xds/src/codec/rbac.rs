//! `config.rbac.v3.RBAC`, carried by the HTTP filter and by the network filter.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3::{CidrRange, TypedExtensionConfig};
use envoy_types::pb::envoy::config::rbac::v3 as pb;
use envoy_types::pb::envoy::config::rbac::v3::{permission::Rule, principal::Identifier};
use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::{PathMatcher, StringMatcher, path_matcher};

use super::field::{
    Fault, Read, Within, each, pack, read_port, read_uint, refuse, required, uint, unpack,
};
use super::matching;
use crate::model::matching::StringMatch;
use crate::model::rbac::{Cidr, Permission, Policy, Principal, Rbac, RbacAction};

const TEMPLATE_MATCHER: &str = "envoy.path.match.uri_template.uri_template_matcher";

pub(super) fn write(of: &Rbac) -> pb::Rbac {
    let Rbac { action, policies } = of;
    let action = match action {
        RbacAction::Allow => pb::rbac::Action::Allow,
        RbacAction::Deny => pb::rbac::Action::Deny,
        RbacAction::Log => pb::rbac::Action::Log,
    };
    pb::Rbac {
        action: action as i32,
        policies: policies
            .iter()
            .map(|p| (p.name.clone(), policy(p)))
            .collect(),
        audit_logging_options: None,
    }
}

fn policy(of: &Policy) -> pb::Policy {
    let Policy {
        name: _,
        permissions,
        principals,
    } = of;
    // Envoy wants at least one of each; what matches nothing is written as "not any".
    let nothing = Permission::Not(Box::new(Permission::Any));
    let nobody = Principal::Not(Box::new(Principal::Any));
    let permissions = if permissions.is_empty() {
        std::slice::from_ref(&nothing)
    } else {
        permissions
    };
    let principals = if principals.is_empty() {
        std::slice::from_ref(&nobody)
    } else {
        principals
    };
    pb::Policy {
        permissions: permissions.iter().map(permission).collect(),
        principals: principals.iter().map(principal).collect(),
        ..pb::Policy::default()
    }
}

fn permission(of: &Permission) -> pb::Permission {
    let set = |rules: &[Permission]| pb::permission::Set {
        rules: rules.iter().map(permission).collect(),
    };
    let rule = match of {
        Permission::Any => Rule::Any(true),
        Permission::All(rules) => Rule::AndRules(set(rules)),
        Permission::OneOf(rules) => Rule::OrRules(set(rules)),
        Permission::Not(rule) => Rule::NotRule(Box::new(permission(rule))),
        Permission::Header(matcher) => Rule::Header(matching::header(matcher)),
        Permission::Path(matcher) => Rule::UrlPath(path(matcher)),
        Permission::PathTemplate(template) => Rule::UriTemplate(TypedExtensionConfig {
            name: TEMPLATE_MATCHER.to_owned(),
            typed_config: Some(pack(&UriTemplateMatchConfig {
                path_template: to_envoy_template(template),
            })),
        }),
        Permission::DestinationPort(port) => Rule::DestinationPort(u32::from(*port)),
        Permission::DestinationIp(range) => Rule::DestinationIp(cidr(range)),
        Permission::ServerName(matcher) => Rule::RequestedServerName(matching::string(matcher)),
    };
    pb::Permission { rule: Some(rule) }
}

fn principal(of: &Principal) -> pb::Principal {
    let set = |ids: &[Principal]| pb::principal::Set {
        ids: ids.iter().map(principal).collect(),
    };
    let identifier = match of {
        Principal::Any => Identifier::Any(true),
        Principal::All(ids) => Identifier::AndIds(set(ids)),
        Principal::OneOf(ids) => Identifier::OrIds(set(ids)),
        Principal::Not(id) => Identifier::NotId(Box::new(principal(id))),
        Principal::Authenticated(name) => Identifier::Authenticated(pb::principal::Authenticated {
            principal_name: name.as_ref().map(matching::string),
        }),
        Principal::DirectIp(range) => Identifier::DirectRemoteIp(cidr(range)),
        Principal::Header(matcher) => Identifier::Header(matching::header(matcher)),
    };
    pb::Principal {
        identifier: Some(identifier),
    }
}

fn path(of: &StringMatch) -> PathMatcher {
    PathMatcher {
        rule: Some(path_matcher::Rule::Path(matching::string(of))),
    }
}

fn cidr(of: &Cidr) -> CidrRange {
    CidrRange {
        address_prefix: of.address.to_string(),
        prefix_len: uint(u32::from(of.prefix_len)),
    }
}

/// Istio writes `{*}` and `{**}` where Envoy has `*` and `**`.
fn to_envoy_template(template: &str) -> String {
    template.replace("{**}", "**").replace("{*}", "*")
}

fn from_envoy_template(template: &str) -> Read<String> {
    if template.contains(['{', '}']) {
        return Err(Fault::new(
            "path_template",
            "named variables are not honoured",
        ));
    }
    let segments: Vec<&str> = template
        .split('/')
        .map(|segment| match segment {
            "*" => Ok("{*}"),
            "**" => Ok("{**}"),
            other if other.contains('*') => {
                Err(Fault::new("path_template", "`*` must be a whole segment"))
            }
            other => Ok(other),
        })
        .collect::<Read<_>>()?;
    Ok(segments.join("/"))
}

pub(super) fn read(message: pb::Rbac) -> Read<Rbac> {
    let pb::Rbac {
        action,
        policies,
        audit_logging_options,
    } = message;
    refuse!(audit_logging_options);
    let action = match pb::rbac::Action::try_from(action) {
        Ok(pb::rbac::Action::Allow) => RbacAction::Allow,
        Ok(pb::rbac::Action::Deny) => RbacAction::Deny,
        Ok(pb::rbac::Action::Log) => RbacAction::Log,
        Err(_) => return Err(Fault::not_honoured("action")),
    };
    let mut policies = policies
        .into_iter()
        .map(|(name, policy)| {
            let path = format!("policies[{name}]");
            read_policy(name, policy).within(&path)
        })
        .collect::<Read<Vec<_>>>()?;
    policies.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Rbac { action, policies })
}

fn read_policy(name: String, policy: pb::Policy) -> Read<Policy> {
    let pb::Policy {
        permissions,
        principals,
        condition,
        checked_condition,
        cel_config,
    } = policy;
    refuse!(condition, checked_condition, cel_config);
    // As Envoy: it wants at least one of each, and what matches nothing is said in so many words.
    let permissions = non_empty(permissions).within("permissions")?;
    let principals = non_empty(principals).within("principals")?;
    Ok(Policy {
        name,
        permissions: each("permissions", permissions, read_permission)?,
        principals: each("principals", principals, read_principal)?,
    })
}

#[allow(deprecated, reason = "every form must be named, to be refused")]
fn read_permission(message: pb::Permission) -> Read<Permission> {
    let pb::Permission { rule } = message;
    Ok(match required("rule", rule)? {
        Rule::Any(true) => Permission::Any,
        Rule::Any(false) => return Err(Fault::new("any", "`false` is not honoured")),
        Rule::AndRules(set) => Permission::All(each(
            "and_rules.rules",
            non_empty(set.rules)?,
            read_permission,
        )?),
        Rule::OrRules(set) => Permission::OneOf(each(
            "or_rules.rules",
            non_empty(set.rules)?,
            read_permission,
        )?),
        Rule::NotRule(rule) => {
            Permission::Not(Box::new(read_permission(*rule).within("not_rule")?))
        }
        Rule::Header(matcher) => {
            Permission::Header(matching::read_header(matcher).within("header")?)
        }
        Rule::UrlPath(matcher) => Permission::Path(read_path(matcher).within("url_path")?),
        Rule::UriTemplate(config) => {
            Permission::PathTemplate(read_template(config).within("uri_template")?)
        }
        Rule::DestinationPort(port) => {
            Permission::DestinationPort(read_port("destination_port", port)?)
        }
        Rule::DestinationIp(range) => {
            Permission::DestinationIp(read_cidr(range).within("destination_ip")?)
        }
        Rule::RequestedServerName(matcher) => {
            Permission::ServerName(read_string(matcher).within("requested_server_name")?)
        }
        Rule::DestinationPortRange(_) => return Err(Fault::not_honoured("destination_port_range")),
        Rule::Metadata(_) => return Err(Fault::not_honoured("metadata")),
        Rule::Matcher(_) => return Err(Fault::not_honoured("matcher")),
        Rule::SourcedMetadata(_) => return Err(Fault::not_honoured("sourced_metadata")),
    })
}

#[allow(deprecated, reason = "every form must be named, to be refused")]
fn read_principal(message: pb::Principal) -> Read<Principal> {
    let pb::Principal { identifier } = message;
    Ok(match required("identifier", identifier)? {
        Identifier::Any(true) => Principal::Any,
        Identifier::Any(false) => return Err(Fault::new("any", "`false` is not honoured")),
        Identifier::AndIds(set) => {
            Principal::All(each("and_ids.ids", non_empty(set.ids)?, read_principal)?)
        }
        Identifier::OrIds(set) => {
            Principal::OneOf(each("or_ids.ids", non_empty(set.ids)?, read_principal)?)
        }
        Identifier::NotId(id) => Principal::Not(Box::new(read_principal(*id).within("not_id")?)),
        Identifier::Authenticated(pb::principal::Authenticated { principal_name }) => {
            Principal::Authenticated(
                principal_name
                    .map(read_string)
                    .transpose()
                    .within("authenticated.principal_name")?,
            )
        }
        Identifier::DirectRemoteIp(range) => {
            Principal::DirectIp(read_cidr(range).within("direct_remote_ip")?)
        }
        Identifier::Header(matcher) => {
            Principal::Header(matching::read_header(matcher).within("header")?)
        }
        Identifier::SourceIp(_) => return Err(Fault::not_honoured("source_ip")),
        Identifier::RemoteIp(_) => return Err(Fault::not_honoured("remote_ip")),
        Identifier::UrlPath(_) => return Err(Fault::not_honoured("url_path")),
        Identifier::Metadata(_) => return Err(Fault::not_honoured("metadata")),
        Identifier::FilterState(_) => return Err(Fault::not_honoured("filter_state")),
        Identifier::SourcedMetadata(_) => return Err(Fault::not_honoured("sourced_metadata")),
        Identifier::Custom(_) => return Err(Fault::not_honoured("custom")),
    })
}

/// Envoy refuses an empty set too: is "all of nothing" true or false?
fn non_empty<T>(items: Vec<T>) -> Read<Vec<T>> {
    if items.is_empty() {
        Err(Fault::new("", "an empty set"))
    } else {
        Ok(items)
    }
}

fn read_string(matcher: StringMatcher) -> Read<StringMatch> {
    matching::read_string(matcher)
}

fn read_path(matcher: PathMatcher) -> Read<StringMatch> {
    let PathMatcher { rule } = matcher;
    let path_matcher::Rule::Path(matcher) = required("rule", rule)?;
    read_string(matcher).within("path")
}

fn read_template(config: TypedExtensionConfig) -> Read<String> {
    let TypedExtensionConfig {
        name: _,
        typed_config,
    } = config;
    let UriTemplateMatchConfig { path_template } =
        unpack(&required("typed_config", typed_config)?)?;
    from_envoy_template(&path_template)
}

fn read_cidr(range: CidrRange) -> Read<Cidr> {
    let CidrRange {
        address_prefix,
        prefix_len,
    } = range;
    let address: IpAddr = address_prefix.parse().map_err(|_| {
        Fault::new(
            "address_prefix",
            format!("`{address_prefix}` is not an IP address"),
        )
    })?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    match read_uint(prefix_len).map(u8::try_from) {
        Some(Ok(prefix_len)) if prefix_len <= longest => Ok(Cidr {
            address,
            prefix_len,
        }),
        None => Ok(Cidr {
            address,
            prefix_len: 0,
        }),
        Some(_) => Err(Fault::new("prefix_len", format!("longer than {longest}"))),
    }
}
