//! One request, whatever it meets: always answered, always recorded, also when it is dropped half-way.
//!
//! Around the itinerary: [`crate::outbound::handle`] or [`crate::inbound::handle`] may use `?` freely.

use std::rc::Rc;

use h2::Reason;
use http::header::HeaderValue;
use http::request::Parts;
use http::{Method, Request, Response, Version};

use crate::body::Body;
use crate::connection::{Connection, Direction as Way};
use crate::error::{Error, RetryClass};
use crate::headers;
use crate::headers::present::{Line, Present};
use crate::http::{Interim, Switched};
use crate::observe::{Direction, Protocol, RequestRecord};
use crate::worker::Worker;
use crate::{inbound, outbound, request_id, respond, upstream};

/// Runs a request and makes its answer. The record travels with the answer's body and is written when that ends.
pub async fn run(
    worker: &Rc<Worker>,
    conn: &Rc<Connection>,
    request: Request<Body>,
    interim: &Interim,
) -> Response<Body> {
    // Lent from here on: the head is hundreds of bytes, and each stage that took it would move it twice.
    let (mut head, mut body) = request.into_parts();
    let present = Present::of(&head.headers);
    let is_grpc = present.has(Line::ContentType) && headers::is_grpc(&head.headers);
    let absolute = head.version != Version::HTTP_2 && head.uri.authority().is_some();
    let extended =
        head.version == Version::HTTP_2 && head.extensions.get::<h2::ext::Protocol>().is_some();
    let mut record = Box::new(worker.recorder.request(direction(conn)));
    let activity = worker.drain.activity();
    let uploaded = (!body.is_empty()).then(|| body.upload());
    let result = match admit(conn, &mut head, present, is_grpc, &mut record) {
        Ok(()) => {
            itinerary(
                worker,
                conn,
                &mut head,
                body,
                absolute,
                &mut record,
                interim,
            )
            .await
        }
        Err(error) => Err(error),
    };
    let result = result.and_then(|mut response| {
        clean(&mut response);
        if extended {
            upgraded(conn, response)
        } else {
            Ok(response)
        }
    });
    let mut response = match result {
        Ok(response) => response,
        Err(error) => {
            let reason_header = worker.settings.reason_header;
            let mut response = respond::failure(&error, is_grpc, reason_header, &mut record);
            if let Some(reset) = hands_back(conn, &error, &record) {
                response.extensions_mut().insert(HandBack(reset));
            }
            response
        }
    };
    record.status = response.status().as_u16();
    if is_grpc && record.grpc_status.is_none() {
        record.grpc_status = headers::grpc_status(response.headers());
    }
    let tail = response.body_mut().tail();
    tail.uploaded = uploaded;
    tail.record = Some(record);
    tail.activity = Some(activity);
    response
}

/// Marks an answer that says "certainly not processed": HTTP/2 sends it as a reset with this code.
#[derive(Clone, Copy, Debug)]
pub struct HandBack(pub Reason);

/// The caller's sidecar holds the policy and the budget of retries and may know another endpoint, so what the application
/// refused, or was not there to take, is refused to it as well. What has been repeated here already gets an answer, which is final:
/// tries add up, they do not multiply.
fn hands_back(conn: &Connection, error: &Error, record: &RequestRecord) -> Option<Reason> {
    if conn.direction != Way::Inbound || !conn.is_mesh_peer() || record.tries > 1 {
        return None;
    }
    match error.retry_class() {
        RetryClass::Refused => Some(Reason::REFUSED_STREAM),
        RetryClass::ConnectFailure => Some(upstream::APPLICATION_AWAY),
        RetryClass::Never | RetryClass::Reset | RetryClass::PerTryTimeout => None,
    }
}

/// The answer to an extended CONNECT, to which any 2xx says that the upgrade was granted (RFC 8441). Where the upstream ignored it and
/// answered as if to a GET, a peer of the mesh is told, and passes the answer on; anybody else has to be refused.
fn upgraded(conn: &Connection, mut response: Response<Body>) -> Result<Response<Body>, Error> {
    let granted = response.extensions().get::<Switched>().is_some();
    if !granted && response.status().is_success() {
        if !conn.is_mesh_peer() {
            return Err(Error::NotImplemented("the upstream does not take upgrades"));
        }
        let told = HeaderValue::from_static("1");
        response
            .headers_mut()
            .insert(headers::UPGRADE_IGNORED, told);
    }
    Ok(response)
}

/// Refuses what no itinerary takes, cleans the rest, and says in the record what was asked for.
fn admit(
    conn: &Connection,
    head: &mut Parts,
    present: Present,
    is_grpc: bool,
    record: &mut RequestRecord,
) -> Result<(), Error> {
    let admitted = headers::admit(head, present);
    if conn.direction != Way::Inbound {
        request_id::ensure(&mut head.headers, present);
    }
    note(head, present, is_grpc, record);
    admitted?;
    if head.method == Method::CONNECT {
        return Err(Error::NotImplemented("CONNECT"));
    }
    if head.version != Version::HTTP_2 {
        headers::strip_hop_by_hop(&mut head.headers);
    }
    if present.has(Line::Mesh) && !conn.is_mesh_peer() {
        headers::strip_mesh(&mut head.headers);
    }
    // Before a gateway's policies, which would believe it.
    if present.has(Line::ClientCert) && conn.direction != Way::Inbound {
        head.headers.remove(headers::CLIENT_CERT);
    }
    Ok(())
}

/// The way that the connection goes. `absolute`: an HTTP/1 target with scheme and host.
async fn itinerary(
    worker: &Rc<Worker>,
    conn: &Rc<Connection>,
    head: &mut Parts,
    body: Body,
    absolute: bool,
    record: &mut RequestRecord,
    interim: &Interim,
) -> Result<Response<Body>, Error> {
    match conn.direction {
        Way::Inbound => inbound::handle(worker, conn, head, body, record, interim).await,
        Way::Outbound | Way::Gateway => {
            if let Some(listener) = conn.gateway(&worker.state) {
                listener.authorizer.admit(&conn.source(), head)?;
            }
            outbound::handle(worker, conn, head, body, absolute, record, interim).await
        }
    }
}

/// What the record says of the request itself.
fn note(head: &Parts, present: Present, is_grpc: bool, record: &mut RequestRecord) {
    record.protocol = match head.version {
        _ if is_grpc => Protocol::Grpc,
        Version::HTTP_2 => Protocol::Http2,
        Version::HTTP_10 | Version::HTTP_09 => Protocol::Http10,
        _ => Protocol::Http11,
    };
    record.method = head.method.clone();
    record.authority = head.uri.authority().cloned();
    record.path = head.uri.path_and_query().cloned();
    record.request_id = head.headers.get(headers::REQUEST_ID).cloned();
    if present.has(Line::Traceparent) {
        record.traceparent = head.headers.get(headers::TRACEPARENT).cloned();
    }
}

/// What of an upstream's answer is not for the client.
fn clean(response: &mut Response<Body>) {
    if response.version() != Version::HTTP_2 {
        headers::strip_hop_by_hop(response.headers_mut());
    }
    headers::strip_mesh(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
}

fn direction(conn: &Connection) -> Direction {
    match conn.direction {
        Way::Inbound => Direction::Inbound,
        Way::Outbound => Direction::Outbound,
        Way::Gateway => Direction::Gateway,
    }
}
