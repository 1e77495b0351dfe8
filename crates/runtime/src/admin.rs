//! A small HTTP/1.1 server for administration, metrics and health: a table of paths, everything bounded.
//!
//! What changes something is POST, and a POST must come from a program on purpose: its `Host` must be `localhost` or an IP
//! address (a name could be a DNS rebinding), and it must carry no `Origin` (a web page's cross-site form does).

mod message;
mod serve;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use http::header::{ALLOW, HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

pub use message::{Request, Response};
pub use serve::{Limits, serve, serve_with};

type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;
type Handler = Arc<dyn Fn(Request) -> Answer + Send + Sync>;

/// What answers one method of a path.
#[derive(Clone)]
struct Route {
    method: Method,
    handler: Handler,
    /// Nobody but this machine may ask.
    local: bool,
}

/// To a person with a cluster.
const NOT_LOCAL: &str =
    "from this machine's loopback address only; of a pod: kubectl port-forward POD PORT\n";

/// The table of routes, by path. A path that ends with `/` stands for everything below it.
#[derive(Clone, Default)]
pub struct Routes {
    table: BTreeMap<&'static str, Vec<Route>>,
    guard_reads: bool,
}

impl Routes {
    pub fn new() -> Self {
        Self::default()
    }

    /// GET and HEAD.
    pub fn get<F, A>(self, path: &'static str, handler: F) -> Self
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Response> + Send + 'static,
    {
        self.add(Method::GET, path, false, handler)
    }

    /// GET and HEAD from loopback addresses only, behind the check of `Host`: for what the network is not to see of a server
    /// that it reaches.
    pub fn get_locally<F, A>(self, path: &'static str, handler: F) -> Self
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Response> + Send + 'static,
    {
        self.add(Method::GET, path, true, handler)
    }

    /// POST, behind the check of `Host` and `Origin`.
    pub fn post<F, A>(self, path: &'static str, handler: F) -> Self
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Response> + Send + 'static,
    {
        self.add(Method::POST, path, false, handler)
    }

    /// Applies the check of `Host` to GET too: for servers that show configuration and are meant for loopback only.
    pub fn guard_reads(mut self) -> Self {
        self.guard_reads = true;
        self
    }

    fn add<F, A>(mut self, method: Method, path: &'static str, local: bool, handler: F) -> Self
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Response> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |request| Box::pin(handler(request)));
        let route = Route {
            method,
            handler,
            local,
        };
        self.table.entry(path).or_default().push(route);
        self
    }

    /// The handler of a request, or why there is none.
    fn find(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        client: IpAddr,
    ) -> Result<Handler, Box<Response>> {
        let Some(methods) = self.table.get(path).or_else(|| self.above(path)) else {
            return Err(self.not_found().into());
        };
        // HEAD is GET without the body, which the server leaves out by itself.
        let wanted = if *method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        let Some(route) = methods.iter().find(|route| route.method == *wanted) else {
            return Err(not_allowed(methods).into());
        };
        if route.local && !client.is_loopback() {
            return Err(Response::text(StatusCode::FORBIDDEN, NOT_LOCAL).into());
        }
        let writes = *wanted != Method::GET;
        if (writes || route.local || self.guard_reads) && !is_local_host(headers) {
            let text = "Host must be localhost or an IP address\n";
            return Err(Response::text(StatusCode::FORBIDDEN, text).into());
        }
        if writes && headers.contains_key(ORIGIN) {
            return Err(Response::text(StatusCode::FORBIDDEN, "not for web pages\n").into());
        }
        Ok(Arc::clone(&route.handler))
    }

    /// What stands for everything below a path of which `path` is.
    fn above(&self, path: &str) -> Option<&Vec<Route>> {
        let mut folders = self.table.iter().filter(|(route, _)| route.ends_with('/'));
        folders
            .find(|(route, _)| path.starts_with(**route))
            .map(|(_, methods)| methods)
    }

    /// Says what there is: whoever mistypes a path is a person.
    fn not_found(&self) -> Response {
        let mut text = String::from("not found; there are:\n");
        for (path, methods) in &self.table {
            for route in methods {
                text.push_str(&format!("{} {path}\n", route.method));
            }
        }
        Response::text(StatusCode::NOT_FOUND, text)
    }
}

fn not_allowed(methods: &[Route]) -> Response {
    let names: Vec<&str> = methods.iter().map(|route| route.method.as_str()).collect();
    let mut response = Response::text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    if let Ok(value) = HeaderValue::from_str(&names.join(", ")) {
        response = response.header(ALLOW, value);
    }
    response
}

fn is_local_host(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(HOST).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    let Some(authority) = value
        .to_str()
        .ok()
        .and_then(|v| v.parse::<http::uri::Authority>().ok())
    else {
        return false;
    };
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests;
