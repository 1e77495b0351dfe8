//! HTTP/2 to an upstream, on the `h2` crate: one exchange on one stream of a pooled connection.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{Reason, RecvStream};
use http::{Method, Request, Response, StatusCode, Version};

use super::gate::{Gate, Opener};
use super::pool::Lease;
use super::{APPLICATION_AWAY, Target};
use crate::body::pump::{Ended, Pump};
use crate::body::{Body, Side};
use crate::error::{Error, Refusal};
use crate::headers;
use crate::http::{Interim, Switched};
use crate::worker::Worker;

mod drive;
mod pool;
mod reset;

pub use self::pool::{Pool, Slot};
use self::reset::Abandoned;

/// Connections that go away under a request before it was put on them; more means that something is wrong.
const STALE_CONNECTIONS: usize = 8;
/// How long the peer's SETTINGS are waited for when a request needs extended CONNECT.
const SETTINGS: Duration = Duration::from_secs(5);

/// Sends a request on a pooled connection.
pub async fn send(
    worker: &Rc<Worker>,
    target: &Target<'_>,
    request: Request<Body>,
    interim: &Interim,
) -> Result<Response<Body>, Error> {
    let pool = worker.pools.h2(target.key());
    let extended = request.extensions().get::<Protocol>().is_some();
    for _ in 0..STALE_CONNECTIONS {
        let mut slot = pool.slot(worker, target).await?;
        // A connection that was told to go away says so here, before anything is sent.
        if let Err(error) = poll_fn(|cx| slot.send.poll_ready(cx)).await {
            if target.is_mesh() && is_farewell(&error) {
                target.cluster.leaves(target.endpoint);
            }
            slot.retire_connection();
            continue;
        }
        if extended {
            extended_connect(&slot.send).await?;
        }
        let result = exchange(slot, request, interim).await;
        let away = Error::ResetBeforeHeaders(APPLICATION_AWAY.into());
        if target.is_mesh() && result.as_ref().is_err_and(|error| *error == away) {
            target.cluster.application_away(target.endpoint);
            return Err(Error::ApplicationAway);
        }
        return result;
    }
    Err(Error::Refused(Refusal::Connection("connections go away")))
}

/// Waits until the peer's SETTINGS say that extended CONNECT may be used (RFC 8441).
async fn extended_connect(send: &SendRequest<Bytes>) -> Result<(), Error> {
    let allowed = async {
        while !send.is_extended_connect_protocol_enabled() {
            // SETTINGS come with the first bytes of a connection; the h2 crate does not tell when.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let refused = |_| Error::NotImplemented("the upstream does not take upgrades over HTTP/2");
    tokio::time::timeout(SETTINGS, allowed)
        .await
        .map_err(refused)
}

/// One stream: the head is sent, then the body goes up while the response is awaited.
async fn exchange(
    mut slot: Slot,
    request: Request<Body>,
    interim: &Interim,
) -> Result<Response<Body>, Error> {
    let (mut parts, mut body) = request.into_parts();
    parts.version = Version::HTTP_2;
    let tunnelled = parts.extensions.get::<Protocol>().is_some();
    if tunnelled {
        parts.method = Method::CONNECT;
    }
    let opener = Gate::for_request(&parts.headers).map(|gate| {
        let opener = gate.opener();
        body.hold(gate);
        opener
    });
    let end = body.is_end() && !tunnelled;
    let sent = slot.send.send_request(Request::from_parts(parts, ()), end);
    let (response, sink) = sent.map_err(|error| before_headers(&error))?;
    let mut awaited = Awaited(Some((slot, response)));
    let mut upload = (!end).then(|| Pump::new(body, sink));
    let (response, slot) = poll_fn(|cx| {
        if let Some(pump) = &mut upload {
            match pump.poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Ended::Complete) => upload = None,
                // Why is for the response to say: a server may answer without reading everything.
                Poll::Ready(Ended::SinkClosed(_)) => upload = None,
                Poll::Ready(Ended::SourceFailed(error)) => return Poll::Ready(Err(error)),
            }
        }
        awaited.poll(cx, interim, opener.as_deref())
    })
    .await?;
    let (mut parts, stream) = response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::UpstreamProtocol("101 over HTTP/2"));
    }
    parts.version = Version::HTTP_2;
    let ignored = || parts.headers.contains_key(headers::UPGRADE_IGNORED);
    if tunnelled && parts.status.is_success() && !ignored() {
        parts.extensions.insert(Switched);
    }
    let mut body = Body::h2(stream, Side::Upstream);
    let tail = body.tail();
    tail.upload = upload;
    tail.lease = Some(Lease::H2(slot));
    Ok(Response::from_parts(parts, body))
}

/// A stream whose answer is awaited; given up if it is dropped before.
struct Awaited(Option<(Slot, ResponseFuture)>);

impl Awaited {
    /// The response's head; 1xx before it are passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        interim: &Interim,
        opener: Option<&Opener>,
    ) -> Poll<Result<(Response<RecvStream>, Slot), Error>> {
        let Some((_, response)) = &mut self.0 else {
            return Poll::Pending;
        };
        let head = ready!(poll_head(response, cx, interim, opener));
        // Answered or broken: either way nothing is left to give up.
        let Some((slot, _)) = self.0.take() else {
            return Poll::Pending;
        };
        Poll::Ready(match head {
            Ok(head) => Ok((head, slot)),
            Err(error) => Err(before_headers(&error)),
        })
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if let Some((slot, response)) = self.0.take() {
            slot.give_up(Abandoned::Unanswered(response));
        }
    }
}

fn poll_head(
    response: &mut ResponseFuture,
    cx: &mut Context<'_>,
    interim: &Interim,
    opener: Option<&Opener>,
) -> Poll<Result<Response<RecvStream>, h2::Error>> {
    while let Some(head) = ready!(response.poll_informational(cx)) {
        let head = head?;
        if let Some(opener) = opener
            && head.status() == StatusCode::CONTINUE
        {
            opener.open();
        }
        interim.push(head);
    }
    Pin::new(response).poll(cx)
}

/// Whether the peer has asked with a GOAWAY to be left alone, and nothing is wrong (RFC 9113 section 6.8).
fn is_farewell(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR)
}

/// What an error before the response's head says about how far the request got.
fn before_headers(error: &h2::Error) -> Error {
    match error.reason() {
        Some(Reason::REFUSED_STREAM) if error.is_reset() && error.is_remote() => {
            Error::Refused(Refusal::Stream)
        }
        // Only streams above the GOAWAY's last-stream-id fail with it; the others fail with the connection.
        Some(_) if error.is_go_away() && error.is_remote() => {
            Error::Refused(Refusal::Connection("GOAWAY"))
        }
        Some(reason) if error.is_reset() && error.is_remote() => {
            Error::ResetBeforeHeaders(reason.into())
        }
        Some(_) if error.is_library() => Error::UpstreamProtocol("HTTP/2"),
        Some(_) | None => Error::ClosedBeforeHeaders,
    }
}
