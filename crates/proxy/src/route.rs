//! Routes, compiled: virtual host by domain, then the first route that matches (Envoy `RouteConfiguration`).
//!
//! Compiling resolves cluster names and parses everything that a request would otherwise parse; a request only compares.

use std::sync::Arc;
use std::time::Duration;

use http::request;
use http::uri::Authority;
use tasuki_xds::model;
use tasuki_xds::model::route::RetryPolicy;

use crate::balance;
use crate::cluster::Cluster;
use crate::fast_map::FastMap;
use crate::headers;

pub mod matching;
pub mod mutate;
pub mod redirect;
pub mod rewrite;

use self::matching::RouteMatcher;
use self::mutate::Mutations;
use self::redirect::Redirect;
use self::rewrite::PathRewrite;

/// A compiled `RouteConfiguration`.
#[derive(Debug, Default)]
pub struct RouteTable {
    pub name: String,
    hosts: Vec<VirtualHost>,
    exact: FastMap<String, usize>,
    /// `*.example.com` as `.example.com`; longest first.
    suffixes: Vec<(String, usize)>,
    /// `example.*` as `example.`; longest first.
    prefixes: Vec<(String, usize)>,
    any: Option<usize>,
}

/// Routes of some domains.
#[derive(Debug)]
pub struct VirtualHost {
    pub name: Arc<str>,
    routes: Vec<Arc<Route>>,
}

/// One route.
#[derive(Debug)]
pub struct Route {
    pub name: Arc<str>,
    pub matcher: RouteMatcher,
    pub action: Action,
    pub request_headers: Mutations,
    pub response_headers: Mutations,
}

/// What a route does.
#[derive(Debug)]
pub enum Action {
    Forward(Box<Forward>),
    Redirect(Redirect),
    Direct {
        status: http::StatusCode,
        body: bytes::Bytes,
    },
    /// For gRPC servers' tables; a proxy answers as if nothing matched.
    NonForwarding,
}

/// Where requests go, and how.
#[derive(Debug)]
pub struct Forward {
    pub clusters: Vec<WeightedCluster>,
    total_weight: u64,
    pub timeout: Option<Duration>,
    /// `None`: `grpc-timeout` is not believed; zero: without limit.
    pub grpc_timeout_max: Option<Duration>,
    /// `None`: the safe default.
    pub retry: Option<RetryPolicy>,
    pub path_rewrite: Option<PathRewrite>,
    pub host_rewrite: Option<Authority>,
}

/// One of a route's clusters.
#[derive(Debug)]
pub struct WeightedCluster {
    pub name: Arc<str>,
    pub weight: u32,
    /// `None`: the control plane says that it does not exist; its share fails with `NC`.
    pub cluster: Option<Arc<Cluster>>,
    pub request_headers: Mutations,
    pub response_headers: Mutations,
}

impl RouteTable {
    /// Compiles `config`; `find` resolves cluster names.
    pub fn compile(
        config: &model::RouteConfiguration,
        find: &dyn Fn(&str) -> Option<Arc<Cluster>>,
    ) -> Self {
        let mut table = Self {
            name: config.name.clone(),
            ..Self::default()
        };
        for (index, host) in config.virtual_hosts.iter().enumerate() {
            table.hosts.push(VirtualHost {
                name: host.name.as_str().into(),
                routes: host
                    .routes
                    .iter()
                    .map(|route| Arc::new(Route::compile(route, find)))
                    .collect(),
            });
            for domain in &host.domains {
                table.add_domain(&domain.to_ascii_lowercase(), index);
            }
        }
        let longest_first = |a: &(String, usize), b: &(String, usize)| b.0.len().cmp(&a.0.len());
        table.suffixes.sort_by(longest_first);
        table.prefixes.sort_by(longest_first);
        table
    }

    fn add_domain(&mut self, domain: &str, index: usize) {
        if domain == "*" {
            self.any.get_or_insert(index);
        } else if let Some(suffix) = domain.strip_prefix('*') {
            self.suffixes.push((suffix.to_owned(), index));
        } else if let Some(prefix) = domain.strip_suffix('*') {
            self.prefixes.push((prefix.to_owned(), index));
        } else {
            self.exact.entry(domain.to_owned()).or_insert(index);
        }
    }

    /// The virtual host for `authority`, compared as it is but for case.
    pub fn host(&self, authority: &str) -> Option<&VirtualHost> {
        self.index(authority).map(|index| &self.hosts[index])
    }

    /// Whether a virtual host names `authority`; a catch-all does not count.
    pub fn knows_host(&self, authority: &str) -> bool {
        self.named(&lower(authority)).is_some()
    }

    fn index(&self, authority: &str) -> Option<usize> {
        if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty() {
            return self.any;
        }
        self.named(&lower(authority)).or(self.any)
    }

    fn named(&self, authority: &str) -> Option<usize> {
        let wildcard = |list: &[(String, usize)], matches: &dyn Fn(&str) -> bool| {
            list.iter()
                .find(|(part, _)| authority.len() > part.len() && matches(part))
                .map(|(_, index)| *index)
        };
        self.exact
            .get(authority)
            .copied()
            .or_else(|| wildcard(&self.suffixes, &|suffix| authority.ends_with(suffix)))
            .or_else(|| wildcard(&self.prefixes, &|prefix| authority.starts_with(prefix)))
    }

    /// The route of a request to `authority`.
    pub fn find(&self, request: &request::Parts, authority: &str) -> Option<&Arc<Route>> {
        let host = self.host(authority)?;
        // Asked for by few routes, and then by several: looked up at most once.
        let mut grpc = None;
        host.routes.iter().find(|route| {
            let is_grpc = !route.matcher.grpc
                || *grpc.get_or_insert_with(|| headers::is_grpc(&request.headers));
            is_grpc && route.matcher.matches(request, authority)
        })
    }

    /// Every cluster that a route names.
    pub fn clusters(&self) -> impl Iterator<Item = &WeightedCluster> {
        self.hosts
            .iter()
            .flat_map(|host| &host.routes)
            .flat_map(|route| match &route.action {
                Action::Forward(forward) => forward.clusters.iter(),
                Action::Redirect(_) | Action::Direct { .. } | Action::NonForwarding => [].iter(),
            })
    }
}

/// Most authorities are lower case already.
fn lower(authority: &str) -> std::borrow::Cow<'_, str> {
    if authority.bytes().any(|b| b.is_ascii_uppercase()) {
        authority.to_ascii_lowercase().into()
    } else {
        authority.into()
    }
}

impl Route {
    fn compile(route: &model::route::Route, find: &dyn Fn(&str) -> Option<Arc<Cluster>>) -> Self {
        use tasuki_xds::model::route::RouteAction;
        let action = match &route.action {
            RouteAction::Forward(forward) => Action::Forward(Box::new(Forward::compile(
                forward,
                &route.matches.path,
                find,
            ))),
            RouteAction::Redirect(redirect) => {
                Action::Redirect(Redirect::compile(redirect, &route.matches.path))
            }
            RouteAction::Direct(direct) => Action::Direct {
                status: http::StatusCode::from_u16(direct.status)
                    .unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR),
                body: direct.body.clone().into(),
            },
            RouteAction::NonForwarding => Action::NonForwarding,
        };
        Self {
            name: route.name.as_str().into(),
            matcher: RouteMatcher::compile(&route.matches),
            action,
            request_headers: Mutations::compile(&route.request_headers),
            response_headers: Mutations::compile(&route.response_headers),
        }
    }
}

impl Forward {
    fn compile(
        forward: &model::route::Forward,
        path: &model::route::PathMatch,
        find: &dyn Fn(&str) -> Option<Arc<Cluster>>,
    ) -> Self {
        let clusters: Vec<WeightedCluster> = forward
            .clusters
            .iter()
            .map(|cluster| WeightedCluster {
                name: cluster.name.as_str().into(),
                weight: cluster.weight,
                cluster: find(&cluster.name),
                request_headers: Mutations::compile(&cluster.request_headers),
                response_headers: Mutations::compile(&cluster.response_headers),
            })
            .collect();
        Self {
            total_weight: clusters
                .iter()
                .map(|cluster| u64::from(cluster.weight))
                .sum(),
            clusters,
            timeout: forward.timeout.filter(|timeout| !timeout.is_zero()),
            grpc_timeout_max: forward.grpc_timeout_max,
            retry: forward.retry.clone(),
            path_rewrite: forward
                .path_rewrite
                .as_ref()
                .map(|rewrite| PathRewrite::compile(rewrite, path)),
            host_rewrite: forward
                .host_rewrite
                .as_ref()
                .and_then(|host| host.parse().ok()),
        }
    }

    /// The cluster for one request, by weight.
    pub fn choose(&self) -> Option<&WeightedCluster> {
        if self.clusters.len() == 1 || self.total_weight == 0 {
            // A single destination takes all, whatever its weight.
            return if self.clusters.len() == 1 {
                self.clusters.first()
            } else {
                None
            };
        }
        let mut point = balance::random() % self.total_weight;
        self.clusters.iter().find(|cluster| {
            let weight = u64::from(cluster.weight);
            let mine = point < weight;
            point = point.saturating_sub(weight);
            mine
        })
    }
}

#[cfg(test)]
mod tests;
