//! The inbound itinerary of a request: authorize > local application > respond.
//!
//! The client's identity is the connection's; what it says of itself in headers is believed only from a
//! verified mesh peer. Limits on connections are `limit.rs`, those on requests the HTTP servers' own.

use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use http::{Response, Version};
use tasuki_xds::model::cluster::HttpProtocol;
use tasuki_xds::model::listener::ForwardClientCert;

use crate::attempt::Attempts;
use crate::attempt::retry::Plan;
use crate::attempt::timeout::Timeouts;
use crate::authorize::Permitted;
use crate::body::Body;
use crate::connection::Connection;
use crate::error::Error;
use crate::headers::{self, OrigProto};
use crate::http::{HttpVersion, Interim};
use crate::observe::{Protocol, RequestRecord};
use crate::worker::Worker;

mod caller;
mod chain;

pub use self::caller::Caller;
pub use self::chain::{Ask, Chain, Inbound, Kind};

/// One request to the local application.
///
/// # Errors
/// [`Error::BadRequest`] for a path that policies cannot judge, [`Error::Denied`], and what the application did.
pub async fn handle(
    worker: &Rc<Worker>,
    conn: &Rc<Connection>,
    head: &mut Parts,
    body: Body,
    record: &mut RequestRecord,
    interim: &Interim,
) -> Result<Response<Body>, Error> {
    let chain = conn.chain(&worker.state)?;
    if conn.identity().is_none() {
        worker.drain.serves_outsider();
    }
    introduce(worker, conn, head, record);
    record.destination = chain.destination.clone();
    let spoken = spoken(&chain, conn, head, record);
    // Before the policies: they see what the application will see, never what a client claims for itself.
    clean(worker, conn, &chain, head);
    let permitted = chain.authorizer.admit(&conn.source(), head)?;
    let decision = Decision {
        spoken,
        chain,
        _permitted: permitted,
    };
    send(worker, conn, decision, head, body, record, interim).await
}

/// Everything that was decided before the application is dialled.
struct Decision {
    chain: Arc<Chain>,
    /// What the application is spoken to.
    spoken: OrigProto,
    /// The proof that the request may be handed on.
    _permitted: Permitted,
}

/// Says in the record who asks.
fn introduce(worker: &Worker, conn: &Connection, request: &Parts, record: &mut RequestRecord) {
    let labels = request
        .headers
        .get(headers::PEER)
        .filter(|_| conn.is_mesh_peer());
    record.source = Some(conn.caller.party(worker, conn, labels));
    record.mutual_tls = conn.identity().is_some();
}

/// What the application is spoken to: what the mesh peer's client spoke; without TLS what the client speaks
/// itself; else what the port was declared to speak. gRPC is always HTTP/2.
fn spoken(chain: &Chain, conn: &Connection, request: &Parts, record: &RequestRecord) -> OrigProto {
    let told = request
        .headers
        .get(headers::ORIG_PROTO)
        .filter(|_| conn.is_mesh_peer())
        .and_then(OrigProto::parse);
    if record.protocol == Protocol::Grpc {
        return OrigProto {
            version: Version::HTTP_2,
            absolute: false,
        };
    }
    if let Some(told) = told {
        return told;
    }
    let version = match (&conn.tls, chain.declared) {
        (None, _) => request.version,
        (Some(_), HttpProtocol::Http2) => Version::HTTP_2,
        // A peer's frames are HTTP/2 whatever its client spoke, so they say nothing about the application.
        (Some(_), HttpProtocol::Http1 | HttpProtocol::Downstream) => Version::HTTP_11,
    };
    OrigProto {
        version,
        absolute: false,
    }
}

/// Removes what only the mesh may say and adds what the mesh knows.
fn clean(worker: &Worker, conn: &Connection, chain: &Chain, request: &mut Parts) {
    headers::strip_mesh(&mut request.headers);
    request.headers.remove(headers::CLIENT_CERT);
    if chain.forward_client_cert == ForwardClientCert::SanitizeSet
        && let Some(peer) = conn.tls.as_ref().and_then(|tls| tls.peer.as_ref())
        && let Some(identity) = &worker.state.snapshot().identity
        && let Some(value) = conn.caller.certificate(identity, peer)
    {
        request.headers.insert(headers::CLIENT_CERT, value);
    }
}

/// Hands the request on as it was decided.
async fn send(
    worker: &Rc<Worker>,
    conn: &Connection,
    decision: Decision,
    head: &mut Parts,
    body: Body,
    record: &mut RequestRecord,
    interim: &Interim,
) -> Result<Response<Body>, Error> {
    let Decision { chain, spoken, .. } = decision;
    let version = if spoken.version == Version::HTTP_2 {
        HttpVersion::Http2
    } else {
        HttpVersion::Http1
    };
    if version == HttpVersion::Http1 {
        // Tells the HTTP/1 side which version and form the target had; it does not reach the application.
        head.headers.insert(headers::ORIG_PROTO, spoken.header());
    }
    record.cluster = Some(chain.cluster_name.clone());
    let (destination, mutual_tls) = (record.destination.clone(), record.mutual_tls);
    // The peer sees an application's reset as an answer (503), so what is safe to repeat is repeated here: applications
    // close idle connections, and tell HTTP/2 clients to go away, whenever they like. `request::hands_back` is the rest.
    let attempts = Attempts {
        worker,
        cluster: &chain.cluster,
        original: Some(conn.application),
        version,
        orig_proto: spoken,
        is_grpc: record.protocol == Protocol::Grpc,
        plan: Plan::beside_application(conn.is_mesh_peer()),
        timeouts: Timeouts::NONE,
        interim,
    };
    let response = attempts.run(head, body, record).await;
    // An attempt describes the leg to its endpoint; here the client's leg is what counts.
    (record.destination, record.mutual_tls) = (destination, mutual_tls);
    response
}
