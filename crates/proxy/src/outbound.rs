//! The outbound itinerary, for sidecars and gateways: route > attempt( balance > upstream ) > respond.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use http::uri::Authority;
use http::{Response, Version};

use crate::attempt::Attempts;
use crate::attempt::retry::Plan;
use crate::attempt::timeout::Timeouts;
use crate::body::Body;
use crate::connection::{Connection, Direction};
use crate::error::Error;
use crate::headers::{self, OrigProto};
use crate::http::{HttpVersion, Interim};
use crate::observe::{Protocol, RequestRecord};
use crate::respond;
use crate::route::{Action, Forward, Route, RouteTable, WeightedCluster};
use crate::state::{ListenerName, Lookup};
use crate::worker::Worker;

/// The cluster whose share is refused: the destination is in no registry.
const BLACK_HOLE: &str = "BlackHoleCluster";

/// One request from the application, or through a gateway. `absolute`: an HTTP/1 target with scheme and host.
pub async fn handle(
    worker: &Rc<Worker>,
    conn: &Rc<Connection>,
    head: &mut Parts,
    body: Body,
    absolute: bool,
    record: &mut RequestRecord,
    interim: &Interim,
) -> Result<Response<Body>, Error> {
    let authority = head.uri.authority().cloned();
    let authority = authority.as_ref().map_or("", Authority::as_str);
    let table = table(worker, conn, authority).await?;
    let route = find(worker, &table, conn, head, authority).ok_or(Error::NoRoute)?;
    record.route = Some(route.name.clone());
    let orig_proto = OrigProto {
        version: head.version,
        absolute,
    };
    let mut response = match &route.action {
        Action::Forward(forward) => {
            forward_to(
                worker, conn, &route, forward, head, body, orig_proto, record, interim,
            )
            .await?
        }
        Action::Redirect(redirect) => {
            let scheme = if conn.tls.is_some() { "https" } else { "http" };
            respond::redirect(redirect, &head.uri, scheme, authority)?
        }
        Action::Direct { status, body } => respond::direct(*status, body),
        Action::NonForwarding => return Err(Error::NoRoute),
    };
    route.response_headers.apply(response.headers_mut());
    Ok(response)
}

/// The routes that apply: by Host when it names something, else those of the connection's own destination.
async fn table(
    worker: &Worker,
    conn: &Connection,
    authority: &str,
) -> Result<Arc<RouteTable>, Error> {
    let own = match conn.lookup(&worker.state) {
        Lookup::Disconnected => conn.look_up_again(&worker.state).await,
        known => known,
    };
    if conn.direction == Direction::Outbound
        && let Some(table) = by_host(worker, conn, &own, authority).await
    {
        return Ok(table);
    }
    let outbound = match own {
        Lookup::Found(outbound) => outbound,
        Lookup::Unknown => worker.state.snapshot().passthrough.clone(),
        Lookup::Disconnected => return Err(Error::Disconnected),
    };
    outbound.http.clone().ok_or(Error::BlackHole)
}

/// The routes of another name than the connection's, when Host has one that is known on the port.
async fn by_host(
    worker: &Worker,
    conn: &Connection,
    own: &Lookup,
    authority: &str,
) -> Option<Arc<RouteTable>> {
    if authority.is_empty() {
        return None;
    }
    let (host, port) = headers::split_port(authority);
    let own_port = own_port(conn, own);
    if let Lookup::Found(outbound) = own
        && let Some(table) = &outbound.http
        && (table.name == authority || table.knows_host(authority))
    {
        return Some(table.clone());
    }
    // An address is no name, and a name on another port is not this connection's.
    let is_address = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>()
        .is_ok();
    if is_address || port.is_some_and(|port| port != own_port) {
        return None;
    }
    let name = headers::canonical_host(host, own_port);
    if let Lookup::Found(outbound) = own
        && let Some(table) = &outbound.http
        && (table.name == name || table.knows_host(&name))
    {
        return Some(table.clone());
    }
    match worker.state.outbound(&ListenerName::exact(&name)).await {
        Lookup::Found(outbound) => outbound.http.clone(),
        Lookup::Unknown | Lookup::Disconnected => None,
    }
}

/// The port that the client meant: an explicit listener stands for a name whose port is another than its own.
fn own_port(conn: &Connection, own: &Lookup) -> u16 {
    let named = match own {
        Lookup::Found(outbound) => headers::split_port(outbound.name.as_str()).1,
        Lookup::Unknown | Lookup::Disconnected => None,
    };
    named.unwrap_or(conn.original_dst.port())
}

/// The route. A gateway compares Host as it came (Envoy); a sidecar knows which service is meant, whatever it was called.
fn find(
    worker: &Worker,
    table: &RouteTable,
    conn: &Connection,
    head: &Parts,
    authority: &str,
) -> Option<Arc<Route>> {
    if let Some(route) = table.find(head, authority) {
        return Some(route.clone());
    }
    if conn.direction != Direction::Outbound || table.host(authority).is_some() {
        return None;
    }
    let canonical = headers::canonical_host(authority, own_port(conn, &conn.lookup(&worker.state)));
    let route = if table.host(&canonical).is_some() {
        table.find(head, &canonical)
    } else {
        table.find(head, &table.name)
    };
    route.cloned()
}

/// Decides where the request goes and how, then attempts it.
#[allow(
    clippy::too_many_arguments,
    reason = "one call, at the end of one itinerary"
)]
async fn forward_to(
    worker: &Rc<Worker>,
    conn: &Rc<Connection>,
    route: &Route,
    forward: &Forward,
    head: &mut Parts,
    body: Body,
    orig_proto: OrigProto,
    record: &mut RequestRecord,
    interim: &Interim,
) -> Result<Response<Body>, Error> {
    let chosen = forward
        .choose()
        .ok_or_else(|| Error::NoCluster(route.name.to_string()))?;
    record.cluster = Some(chosen.name.clone());
    if &*chosen.name == BLACK_HOLE {
        return Err(Error::BlackHole);
    }
    let cluster = chosen
        .cluster
        .as_ref()
        .ok_or_else(|| Error::NoCluster(chosen.name.to_string()))?;
    let is_grpc = record.protocol == Protocol::Grpc;
    let timeouts = Timeouts::of(forward, &head.headers, is_grpc, tokio::time::Instant::now());
    rewrite(head, route, forward, chosen);
    let attempts = Attempts {
        worker,
        cluster,
        original: Some(conn.original_dst),
        version: if orig_proto.version == Version::HTTP_2 {
            HttpVersion::Http2
        } else {
            HttpVersion::Http1
        },
        orig_proto,
        is_grpc,
        plan: Plan::new(forward.retry.as_ref()),
        timeouts,
        interim,
    };
    let mut response = attempts.run(head, body, record).await?;
    chosen.response_headers.apply(response.headers_mut());
    Ok(response)
}

/// What the route changes in the request: the cluster's changes, then the route's (Envoy's order).
fn rewrite(head: &mut Parts, route: &Route, forward: &Forward, chosen: &WeightedCluster) {
    chosen.request_headers.apply(&mut head.headers);
    route.request_headers.apply(&mut head.headers);
    if let Some(rewrite) = &forward.path_rewrite
        && let Some(path) = rewrite.apply(&head.uri)
    {
        headers::set_path(&mut head.uri, path);
    }
    let authority = route
        .request_headers
        .authority
        .as_ref()
        .or(chosen.request_headers.authority.as_ref());
    if let Some(authority) = forward.host_rewrite.as_ref().or(authority) {
        headers::set_authority(&mut head.uri, authority.clone());
    }
}
