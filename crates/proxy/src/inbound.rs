//! The inbound itinerary of a request: authorize > local application > respond.
//!
//! The client's identity is the connection's; what it says of itself in headers is believed only from a
//! verified mesh peer. Limits on connections are `limit.rs`, those on requests the HTTP servers' own.

use std::rc::Rc;
use std::sync::Arc;

use http::header::HeaderValue;
use http::request::Parts;
use http::{Request, Response, Version};
use tasuki_identity::PeerCertificate;
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
use crate::identity::Identity;
use crate::observe::RequestRecord;
use crate::worker::Worker;

mod chain;

pub use self::chain::{Ask, Chain, Inbound, Kind};

/// One request to the local application.
///
/// # Errors
/// [`Error::BadRequest`] for a path that policies cannot judge, [`Error::Denied`], and what the application did.
pub async fn handle(
    worker: &Rc<Worker>,
    conn: &Rc<Connection>,
    request: Request<Body>,
    interim: &Interim,
    record: &mut RequestRecord,
) -> Result<Response<Body>, Error> {
    let chain = conn.chain(&worker.state)?;
    let (mut parts, body) = request.into_parts();
    introduce(worker, conn, &parts, record);
    record.destination = chain.destination.clone();
    let spoken = spoken(&chain, conn, &parts);
    // Before the policies: they see what the application will see, never what a client claims for itself.
    clean(worker, conn, &chain, &mut parts);
    let permitted = chain.authorizer.admit(&conn.source(), &mut parts)?;
    let decision = Decision {
        spoken,
        chain,
        _permitted: permitted,
    };
    let request = Request::from_parts(parts, body);
    send(worker, conn, decision, request, interim, record).await
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
    record.source = Some(
        worker
            .metrics
            .peers
            .intern(conn.identity(), labels.map(HeaderValue::as_bytes)),
    );
    record.mutual_tls = conn.identity().is_some();
}

/// What the application is spoken to: what the mesh peer's client spoke; without TLS what the client speaks
/// itself; else what the port was declared to speak. gRPC is always HTTP/2.
fn spoken(chain: &Chain, conn: &Connection, request: &Parts) -> OrigProto {
    let told = request
        .headers
        .get(headers::ORIG_PROTO)
        .filter(|_| conn.is_mesh_peer())
        .and_then(OrigProto::parse);
    if headers::is_grpc(&request.headers) {
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
        && let Ok(value) = HeaderValue::try_from(client_cert(identity, peer))
    {
        request.headers.insert(headers::CLIENT_CERT, value);
    }
}

/// Exactly one element, as Envoy writes it with `SANITIZE_SET`.
fn client_cert(own: &Identity, peer: &PeerCertificate) -> String {
    format!(
        "By={};Hash={};Subject=\"{}\";URI={}",
        own.id(),
        peer.sha256_hex,
        quoted(&peer.subject),
        peer.id
    )
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Hands the request on as it was decided.
async fn send(
    worker: &Rc<Worker>,
    conn: &Connection,
    decision: Decision,
    mut request: Request<Body>,
    interim: &Interim,
    record: &mut RequestRecord,
) -> Result<Response<Body>, Error> {
    let Decision { chain, spoken, .. } = decision;
    let version = if spoken.version == Version::HTTP_2 {
        HttpVersion::Http2
    } else {
        HttpVersion::Http1
    };
    if version == HttpVersion::Http1 {
        // Tells the HTTP/1 side which version and form the target had; it does not reach the application.
        request
            .headers_mut()
            .insert(headers::ORIG_PROTO, spoken.header());
    }
    record.cluster = Some(chain.cluster_name.clone());
    let (destination, mutual_tls) = (record.destination.clone(), record.mutual_tls);
    // The peer sees an application's reset as an answer (503), so what is safe to repeat is repeated here: applications
    // close idle connections, and tell HTTP/2 clients to go away, whenever they like.
    let attempts = Attempts {
        worker,
        cluster: &chain.cluster,
        original: Some(conn.application),
        version,
        orig_proto: spoken,
        is_grpc: headers::is_grpc(request.headers()),
        plan: Plan::new(None),
        timeouts: Timeouts::NONE,
        interim,
    };
    let response = attempts.run(request, record).await;
    // An attempt describes the leg to its endpoint; here the client's leg is what counts.
    (record.destination, record.mutual_tls) = (destination, mutual_tls);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_quoted() {
        assert_eq!(quoted(r#"CN=a"b\c"#), r#"CN=a\"b\\c"#);
    }
}
