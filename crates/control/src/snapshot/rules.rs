//! VirtualService rules as routes: which rules hold for this caller on this port, and what each becomes.

use std::time::Duration;

use tasuki_resources::NamespacedName;
use tasuki_resources::virtual_service::{
    GatewayRef, HeaderOperations, HttpAction, HttpMatch, HttpRule, Redirect, RedirectPath,
    RedirectPort, StringMatch, ValueMatch, VirtualService, WeightedDestination,
};
use tasuki_xds::model::matching::{self, HeaderMatch, QueryMatch};
use tasuki_xds::model::route::{
    self, AppendAction, DirectResponse, Forward, HeaderAdd, HeaderMutations, PathMatch,
    PathRewrite, Route, RouteAction, RouteMatch, WeightedCluster,
};

use super::cluster_name;
use super::outbound::match_all;
use super::retries::retry;
use super::viewer::Viewer;

/// Through what a request comes.
#[derive(Clone, Copy)]
pub enum Caller<'a> {
    /// A sidecar, or a gRPC client: the gateway `mesh`.
    Sidecar,
    /// One port of a gateway proxy, which may serve several Gateways.
    Gateways(&'a [&'a NamespacedName]),
}

/// The routes of these VirtualServices in order, those that match everything last; nothing behind the
/// first of those can be reached, so it is left out.
pub fn rules<'v>(
    viewer: &Viewer<'_>,
    virtual_services: impl IntoIterator<Item = (Caller<'v>, &'v VirtualService)>,
    port: u16,
) -> Vec<Route> {
    let mut routes = Vec::new();
    let mut catch_all = None;
    for (caller, vs) in virtual_services {
        // Within one VirtualService the order is the user's: what stands behind its catch-all is dead.
        for (index, rule) in vs.http.iter().enumerate() {
            let Some(action) = action(viewer, vs, rule, port) else {
                continue;
            };
            let blocks = blocks(viewer, vs, rule, caller, port);
            let end = blocks.iter().position(|(is_catch_all, _, _)| *is_catch_all);
            for (is_catch_all, name, matches) in
                blocks.into_iter().take(end.map_or(usize::MAX, |e| e + 1))
            {
                let route = Route {
                    name: route_name(vs, rule, index, name),
                    matches,
                    action: action.clone(),
                    request_headers: mutations(&rule.headers.request),
                    response_headers: mutations(&rule.headers.response),
                };
                if is_catch_all {
                    catch_all.get_or_insert(route);
                } else {
                    routes.push(route);
                }
            }
            if end.is_some() {
                break;
            }
        }
    }
    routes.extend(catch_all);
    routes
}

/// Whether any rule holds for this caller on this port; where none does, the VirtualService might as well not exist.
pub fn speaks(viewer: &Viewer<'_>, vs: &VirtualService, caller: Caller<'_>, port: u16) -> bool {
    let any = |rule: &HttpRule| {
        let mut blocks = rule.matches.iter();
        rule.matches.is_empty() || blocks.any(|block| holds(viewer, vs, block, caller, port))
    };
    vs.http.iter().any(any)
}

fn route_name(vs: &VirtualService, rule: &HttpRule, index: usize, block: Option<&str>) -> String {
    let rule_name = match &rule.name {
        Some(name) => name.clone(),
        None => format!("{}[{index}]", vs.meta.name),
    };
    match block {
        Some(block) => format!("{rule_name}.{block}"),
        None => rule_name,
    }
}

/// The match blocks that can hold for this caller: whether everything matches, its name, its conditions.
fn blocks<'r>(
    viewer: &Viewer<'_>,
    vs: &VirtualService,
    rule: &'r HttpRule,
    caller: Caller<'_>,
    port: u16,
) -> Vec<(bool, Option<&'r str>, RouteMatch)> {
    if rule.matches.is_empty() {
        return vec![(true, None, match_all())];
    }
    rule.matches
        .iter()
        .filter(|block| holds(viewer, vs, block, caller, port))
        .map(|block| {
            (
                block.is_catch_all(),
                block.name.as_deref(),
                route_match(block),
            )
        })
        .collect()
}

/// The conditions that are decided here rather than by the proxy.
fn holds(
    viewer: &Viewer<'_>,
    vs: &VirtualService,
    block: &HttpMatch,
    caller: Caller<'_>,
    port: u16,
) -> bool {
    let gateways = if block.gateways.is_empty() {
        &vs.gateways
    } else {
        &block.gateways
    };
    let through = match caller {
        Caller::Sidecar => gateways.contains(&GatewayRef::Mesh),
        Caller::Gateways(names) => gateways
            .iter()
            .any(|g| matches!(g, GatewayRef::Gateway(own) if names.contains(&own))),
    };
    through
        && block.port.is_none_or(|own| own == port)
        && tasuki_resources::labels::selects(&block.source_labels, viewer.labels())
        && block
            .source_namespace
            .as_deref()
            .is_none_or(|namespace| namespace == viewer.namespace())
}

fn route_match(block: &HttpMatch) -> RouteMatch {
    let mut headers = Vec::new();
    let pseudo = [
        (":scheme", &block.scheme),
        (":method", &block.method),
        (":authority", &block.authority),
    ];
    for (name, condition) in pseudo {
        if let Some(condition) = condition {
            headers.push(header(
                name,
                matching::ValueMatch::String(string(condition)),
                false,
            ));
        }
    }
    headers.extend(
        block
            .headers
            .iter()
            .map(|(name, condition)| header(name, value(condition), false)),
    );
    headers.extend(
        block
            .without_headers
            .iter()
            .map(|(name, condition)| header(name, value(condition), true)),
    );
    RouteMatch {
        path: match &block.uri {
            None => PathMatch::Prefix("/".to_owned()),
            Some(StringMatch::Exact(path)) => PathMatch::Exact(path.clone()),
            // An empty prefix is how some write "every path".
            Some(StringMatch::Prefix(path)) if path.is_empty() => PathMatch::Prefix("/".to_owned()),
            Some(StringMatch::Prefix(path)) => PathMatch::Prefix(path.clone()),
            Some(StringMatch::Regex(regex)) => PathMatch::Regex(regex.clone()),
        },
        ignore_path_case: block.ignore_uri_case
            && !matches!(block.uri, Some(StringMatch::Regex(_)) | None),
        headers,
        query: block
            .query
            .iter()
            .map(|(name, condition)| QueryMatch {
                name: name.clone(),
                value: value(condition),
            })
            .collect(),
        fraction_per_million: None,
        grpc: false,
    }
}

fn header(name: &str, value: matching::ValueMatch, invert: bool) -> HeaderMatch {
    let missing_as_empty = invert && value != matching::ValueMatch::Present;
    HeaderMatch {
        name: name.to_owned(),
        value,
        invert,
        missing_as_empty,
    }
}

fn value(condition: &ValueMatch) -> matching::ValueMatch {
    match condition {
        ValueMatch::Present => matching::ValueMatch::Present,
        ValueMatch::String(condition) => matching::ValueMatch::String(string(condition)),
    }
}

fn string(condition: &StringMatch) -> matching::StringMatch {
    let pattern = match condition {
        StringMatch::Exact(text) => matching::Pattern::Exact(text.clone()),
        StringMatch::Prefix(text) => matching::Pattern::Prefix(text.clone()),
        StringMatch::Regex(text) => matching::Pattern::Regex(text.clone()),
    };
    matching::StringMatch {
        pattern,
        ignore_case: false,
    }
}

/// `None` when the rule names something that is not there: it is withheld, and reported with the mesh.
fn action(
    viewer: &Viewer<'_>,
    vs: &VirtualService,
    rule: &HttpRule,
    port: u16,
) -> Option<RouteAction> {
    Some(match &rule.action {
        HttpAction::Direct(direct) => RouteAction::Direct(DirectResponse {
            status: direct.status,
            body: direct.body.clone(),
        }),
        HttpAction::Redirect(redirect) => RouteAction::Redirect(self::redirect(redirect, port)),
        HttpAction::Forward(forward) => {
            let clusters: Option<Vec<_>> = forward
                .destinations
                .iter()
                .map(|destination| cluster(viewer, vs, destination, port))
                .collect();
            RouteAction::Forward(Forward {
                clusters: alive(clusters?),
                timeout: rule.timeout,
                // A deadline that a gRPC client sets counts as it is, beside the route's timeout.
                grpc_timeout_max: Some(Duration::ZERO),
                retry: rule.retries.as_ref().map(retry),
                path_rewrite: forward.rewrite.uri.clone().map(PathRewrite::Prefix),
                host_rewrite: host_rewrite(rule, forward),
            })
        }
    })
}

/// One destination takes all whatever its weight; of several, those of weight 0 get nothing.
fn alive(mut clusters: Vec<WeightedCluster>) -> Vec<WeightedCluster> {
    if let [only] = clusters.as_mut_slice() {
        only.weight = only.weight.max(1);
    } else if clusters.iter().any(|cluster| cluster.weight > 0) {
        clusters.retain(|cluster| cluster.weight > 0);
    }
    clusters
}

fn cluster(
    viewer: &Viewer<'_>,
    vs: &VirtualService,
    destination: &WeightedDestination,
    called: u16,
) -> Option<WeightedCluster> {
    let service = viewer
        .mesh
        .services
        .destination(&destination.host, &vs.meta.name.namespace)?;
    let port = match (destination.port, service.ports.as_slice()) {
        (Some(port), _) => port,
        (None, [only]) => only.number,
        (None, _) => called,
    };
    service.port(port)?;
    Some(WeightedCluster {
        name: cluster_name(
            port,
            destination.subset.as_deref().unwrap_or_default(),
            &service.host,
        ),
        weight: destination.weight,
        request_headers: mutations(&destination.headers.request),
        response_headers: mutations(&destination.headers.response),
    })
}

fn redirect(redirect: &Redirect, port: u16) -> route::Redirect {
    route::Redirect {
        scheme: redirect.scheme.clone(),
        host: redirect.authority.clone(),
        port: match redirect.port {
            Some(RedirectPort::Number(number)) => Some(number),
            Some(RedirectPort::FromRequest) => Some(port),
            // What Envoy does when nothing is said.
            Some(RedirectPort::FromScheme) | None => None,
        },
        path: redirect.path.as_ref().map(|path| match path {
            RedirectPath::Full(path) => route::RedirectPath::Full(path.clone()),
            RedirectPath::Prefix(path) => route::RedirectPath::Prefix(path.clone()),
        }),
        status: redirect.status,
        strip_query: false,
    }
}

/// What says more of the destination wins. Of several destinations none may say it (`tasuki-resources`).
fn host_rewrite(
    rule: &HttpRule,
    forward: &tasuki_resources::virtual_service::Forward,
) -> Option<String> {
    let mut destinations = forward.destinations.iter();
    let rewrite = forward.rewrite.authority.clone();
    rewrite
        .or_else(|| destinations.find_map(|d| authority(&d.headers.request)))
        .or_else(|| authority(&rule.headers.request))
}

/// `set: {":authority": ...}`: Envoy refuses it as a header and has a rewrite for it (as Istio's pilot does).
fn authority(operations: &HeaderOperations) -> Option<String> {
    operations
        .set
        .iter()
        .find(|(name, _)| name == ":authority")
        .map(|(_, value)| value.clone())
}

fn mutations(operations: &HeaderOperations) -> HeaderMutations {
    let add = |(name, value): &(String, String), append| HeaderAdd {
        name: name.clone(),
        value: value.clone(),
        append,
    };
    let set = operations
        .set
        .iter()
        .filter(|(name, _)| name != ":authority");
    let set = set.map(|pair| add(pair, AppendAction::OverwriteIfExistsOrAdd));
    let added = operations
        .add
        .iter()
        .filter(|(name, _)| name != ":authority");
    let added = added.map(|pair| add(pair, AppendAction::AppendIfExistsOrAdd));
    HeaderMutations {
        remove: operations.remove.clone(),
        add: set.chain(added).collect(),
    }
}
