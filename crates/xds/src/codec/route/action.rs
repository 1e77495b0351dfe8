//! What a route does: forward, redirect, answer, or nothing.

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source};
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::route::Action;

use super::forward;
use crate::codec::Dialect;
use crate::codec::field::{Fault, Read, Within, read_inline, read_port, refuse};
use crate::model::route::{DirectResponse, HeaderMutations, Redirect, RedirectPath, RouteAction};

pub(super) fn write(
    of: &RouteAction,
    request_headers: &HeaderMutations,
    dialect: &Dialect,
) -> Action {
    match of {
        RouteAction::Forward(f) => Action::Route(forward::write(f, request_headers, dialect)),
        RouteAction::Redirect(r) => Action::Redirect(redirect(r)),
        RouteAction::Direct(d) => Action::DirectResponse(direct(d)),
        RouteAction::NonForwarding => Action::NonForwardingAction(pb::NonForwardingAction {}),
    }
}

fn redirect(of: &Redirect) -> pb::RedirectAction {
    let Redirect {
        scheme,
        host,
        port,
        path,
        status,
        strip_query,
    } = of;
    let code = match status {
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::MovedPermanently,
    };
    pb::RedirectAction {
        host_redirect: host.clone().unwrap_or_default(),
        port_redirect: port.map(u32::from).unwrap_or_default(),
        response_code: code as i32,
        strip_query: *strip_query,
        scheme_rewrite_specifier: scheme.clone().map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: path.as_ref().map(|path| match path {
            RedirectPath::Full(path) => PathRewriteSpecifier::PathRedirect(path.clone()),
            RedirectPath::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix.clone()),
        }),
    }
}

fn direct(of: &DirectResponse) -> pb::DirectResponseAction {
    let DirectResponse { status, body } = of;
    let source = || DataSource {
        specifier: Some(data_source::Specifier::InlineBytes(body.clone())),
        ..DataSource::default()
    };
    pb::DirectResponseAction {
        status: u32::from(*status),
        body: (!body.is_empty()).then(source),
        ..pb::DirectResponseAction::default()
    }
}

pub(super) fn read(action: Action) -> Read<RouteAction> {
    Ok(match action {
        Action::Route(route) => RouteAction::Forward(forward::read(route).within("route")?),
        Action::Redirect(redirect) => {
            RouteAction::Redirect(read_redirect(redirect).within("redirect")?)
        }
        Action::DirectResponse(direct) => {
            RouteAction::Direct(read_direct(direct).within("direct_response")?)
        }
        Action::NonForwardingAction(pb::NonForwardingAction {}) => RouteAction::NonForwarding,
        Action::FilterAction(_) => return Err(Fault::not_honoured("filter_action")),
    })
}

fn read_redirect(message: pb::RedirectAction) -> Read<Redirect> {
    let pb::RedirectAction {
        host_redirect,
        port_redirect,
        response_code,
        strip_query,
        scheme_rewrite_specifier,
        path_rewrite_specifier,
    } = message;
    let scheme = match scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".to_owned()),
        Some(SchemeRewriteSpecifier::HttpsRedirect(false)) | None => None,
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme),
    };
    let path = match path_rewrite_specifier {
        None => None,
        Some(PathRewriteSpecifier::PathRedirect(path)) => Some(RedirectPath::Full(path)),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => Some(RedirectPath::Prefix(prefix)),
        Some(PathRewriteSpecifier::RegexRewrite(_)) => {
            return Err(Fault::not_honoured("regex_rewrite"));
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => {
            return Err(Fault::not_honoured("path_rewrite"));
        }
    };
    let status = match RedirectResponseCode::try_from(response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => 301,
        Ok(RedirectResponseCode::Found) => 302,
        Ok(RedirectResponseCode::SeeOther) => 303,
        Ok(RedirectResponseCode::TemporaryRedirect) => 307,
        Ok(RedirectResponseCode::PermanentRedirect) => 308,
        Err(_) => return Err(Fault::not_honoured("response_code")),
    };
    let host = (!host_redirect.is_empty()).then_some(host_redirect);
    let port = match port_redirect {
        0 => None,
        port => Some(read_port("port_redirect", port)?),
    };
    Ok(Redirect {
        scheme,
        host,
        port,
        path,
        status,
        strip_query,
    })
}

fn read_direct(message: pb::DirectResponseAction) -> Read<DirectResponse> {
    let pb::DirectResponseAction {
        status,
        body,
        body_format,
    } = message;
    refuse!(body_format);
    let status = u16::try_from(status)
        .ok()
        .filter(|s| (200..600).contains(s));
    let status = status.ok_or_else(|| Fault::new("status", "not between 200 and 599"))?;
    let body = body
        .map(read_inline)
        .transpose()
        .within("body")?
        .unwrap_or_default();
    Ok(DirectResponse { status, body })
}
