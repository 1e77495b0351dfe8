//! Bodies: one closed enum over where the bytes come from, so that no body hides behind a trait object.
//!
//! A response body carries what must live as long as it does ([`Tail`]): the request's own body still on its way up, the
//! places in load and limits, the deadline, the record. Nothing is spawned for these: whoever reads the response drives them.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use crate::error::Error;
use crate::headers;
use crate::upstream::gate::Gate;

pub mod pump;
pub mod replay;
pub mod tail;
pub mod tunnel;
pub mod upload;

use self::replay::Replay;
pub use self::tail::Tail;
use self::tunnel::Tunnel;
use self::upload::Upload;

/// The body of a request or a response.
#[derive(Default)]
pub struct Body {
    kind: Kind,
    /// Whom a failure is blamed on.
    side: Side,
    /// How far it has come; request bodies have it.
    upload: Option<Rc<Upload>>,
    /// Keeps the body back until the upstream has asked for it.
    gate: Option<Gate>,
    tail: Option<Box<Tail>>,
}

/// Who sends the body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    #[default]
    Downstream,
    Upstream,
}

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    H2(h2::RecvStream),
    H1(Incoming),
    Replay(Replay),
    Tunnel(Tunnel),
}

impl Body {
    /// No bytes, no trailers.
    pub fn empty() -> Self {
        Self::default()
    }

    fn of(kind: Kind, side: Side) -> Self {
        Self {
            kind,
            side,
            upload: None,
            gate: None,
            tail: None,
        }
    }

    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() {
            Self::empty()
        } else {
            Kind::Full(bytes).into()
        }
    }

    /// What an HTTP/2 peer sends.
    pub fn h2(stream: h2::RecvStream, side: Side) -> Self {
        if stream.is_end_stream() {
            return Self::empty();
        }
        Self::of(Kind::H2(stream), side)
    }

    /// What an HTTP/1 peer sends.
    pub fn h1(incoming: Incoming, side: Side) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        Self::of(Kind::H1(incoming), side)
    }

    /// A body that can be read again.
    pub fn replay(replay: Replay) -> Self {
        Kind::Replay(replay).into()
    }

    /// The bytes of an upgraded connection.
    pub fn tunnel(tunnel: Tunnel, side: Side) -> Self {
        Self::of(Kind::Tunnel(tunnel), side)
    }

    /// What lives as long as this body.
    pub fn tail(&mut self) -> &mut Tail {
        self.tail.get_or_insert_default()
    }

    /// Takes over what lives as long as another body, whose place this one takes.
    pub fn with_tail_of(mut self, mut other: Self) -> Self {
        self.tail = other.tail.take();
        self
    }

    /// What tells others how far this body has come.
    pub fn upload(&mut self) -> Rc<Upload> {
        self.upload.get_or_insert_default().clone()
    }

    /// The body's declared length, for readers that stop there without seeing its end.
    pub fn expect(&mut self, length: Option<u64>) {
        if let Some(tail) = &mut self.tail {
            tail.expected = length;
        }
    }

    /// The body is over for its reader, whatever is left of it (the answer to a HEAD).
    pub fn conclude(mut self) {
        self.finish();
    }

    /// Nothing is read before `gate` opens.
    pub fn hold(&mut self, gate: Gate) {
        self.gate = Some(gate);
    }

    /// Known from the start to have neither bytes nor trailers.
    pub fn is_empty(&self) -> bool {
        matches!(self.kind, Kind::Empty)
    }

    /// Neither bytes nor trailers will come (anymore).
    pub fn is_end(&self) -> bool {
        let end = match &self.kind {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::H2(stream) => stream.is_end_stream(),
            Kind::H1(incoming) => incoming.is_end_stream(),
            Kind::Replay(replay) => replay.is_end(),
            Kind::Tunnel(tunnel) => tunnel.is_end(),
        };
        if end {
            // A reader that knows the end does not read on to it.
            self.end_upload();
        }
        end
    }

    /// How many unsent bytes a reader may hold. HTTP/2's credit is given back only by [`Body::release`], so its window is
    /// the bound, and draining it keeps small frames from being charged by the `h2` crate while a sink is stalled.
    fn read_ahead(&self) -> usize {
        match &self.kind {
            Kind::H2(_) => usize::MAX,
            // What stands behind it bounds it: an HTTP/1 source would be read whole.
            Kind::Replay(replay) => replay.read_ahead(),
            Kind::Empty | Kind::Full(_) | Kind::H1(_) | Kind::Tunnel(_) => 1,
        }
    }

    /// The next frame, whose flow-control credit the caller gives back with [`Body::release`] when it has passed it on.
    pub fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(tail) = &mut self.tail
            && let Err(error) = tail.poll(cx)
        {
            self.abandon();
            return Poll::Ready(Some(Err(self.fail(error))));
        }
        if let Some(gate) = &mut self.gate {
            ready!(gate.poll(cx));
            self.gate = None;
        }
        let polled = self.kind.poll(cx, self.side);
        if let Some(upload) = &self.upload {
            match polled {
                Poll::Pending => upload.waits(),
                Poll::Ready(_) => upload.resume(),
            }
        }
        let mut frame = match ready!(polled) {
            None => {
                self.finish();
                return Poll::Ready(None);
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(self.fail(error)))),
            Some(Ok(frame)) => frame,
        };
        if let Some(trailers) = frame.trailers_mut()
            && !matches!(self.kind, Kind::Replay(_))
        {
            headers::clean_trailers(trailers);
            // Nothing comes after trailers, and not every source says so by itself.
            self.kind = Kind::Empty;
            self.end_upload();
        }
        if let (Some(upload), Some(data)) = (&self.upload, frame.data_ref()) {
            upload.passed(data.len());
        }
        if let Some(tail) = &mut self.tail {
            tail.frame(&frame);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// Gives flow-control credit back for bytes that have been passed on.
    pub fn release(&mut self, bytes: usize) {
        match &mut self.kind {
            // Fails only when the stream has been reset, whose credit is returned then anyway.
            Kind::H2(stream) => drop(stream.flow_control().release_capacity(bytes)),
            Kind::Replay(replay) => replay.release(bytes),
            Kind::Empty | Kind::Full(_) | Kind::H1(_) | Kind::Tunnel(_) => {}
        }
    }

    /// The rest of an upstream's answer will not be read.
    fn abandon(&mut self) {
        if let Kind::H2(_) = self.kind
            && let Some(tail) = &mut self.tail
            && let Some(slot) = tail.take_slot()
            && let Kind::H2(stream) = std::mem::take(&mut self.kind)
        {
            slot.abandon(stream);
        }
    }

    fn finish(&mut self) {
        self.kind = Kind::Empty;
        self.end_upload();
        if let Some(mut tail) = self.tail.take() {
            tail.end(Ok(()));
        }
    }

    fn end_upload(&self) {
        if let Some(upload) = &self.upload {
            upload.end();
        }
    }

    fn fail(&mut self, error: Error) -> Error {
        self.kind = Kind::Empty;
        self.end_upload();
        if let Some(mut tail) = self.tail.take() {
            tail.end(Err(&error));
        }
        error
    }
}

impl Kind {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        side: Side,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::H2(stream) => match ready!(poll_h2(stream, cx)) {
                None => Poll::Ready(None),
                Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
                Some(Err(error)) => Poll::Ready(Some(Err(side.h2_error(&error)))),
            },
            Self::H1(incoming) => match ready!(Pin::new(incoming).poll_frame(cx)) {
                None => Poll::Ready(None),
                Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
                Some(Err(error)) => Poll::Ready(Some(Err(side.h1_error(&error)))),
            },
            Self::Replay(replay) => replay.poll(cx),
            Self::Tunnel(tunnel) => tunnel.poll(cx, side),
        }
    }
}

fn poll_h2(
    stream: &mut h2::RecvStream,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
    match ready!(stream.poll_data(cx)) {
        Some(Ok(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
        Some(Err(error)) => Poll::Ready(Some(Err(error))),
        None => match ready!(stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(error))),
        },
    }
}

impl Side {
    /// What an error of the `h2` crate inside a body means.
    pub fn h2_error(self, error: &h2::Error) -> Error {
        match self {
            Self::Downstream if error.is_library() => Error::DownstreamProtocol,
            Self::Downstream => Error::DownstreamClosed,
            Self::Upstream => match error.reason() {
                Some(reason) if error.is_reset() && error.is_remote() => {
                    Error::ResetInResponse(reason.into())
                }
                Some(_) if error.is_library() => Error::UpstreamProtocol("HTTP/2"),
                Some(_) | None => Error::ClosedInResponse,
            },
        }
    }

    fn h1_error(self, error: &hyper::Error) -> Error {
        match self {
            Self::Downstream if error.is_parse() => Error::DownstreamProtocol,
            Self::Downstream => Error::DownstreamClosed,
            Self::Upstream if error.is_parse() => Error::UpstreamProtocol("HTTP/1 body"),
            Self::Upstream => Error::ClosedInResponse,
        }
    }

    /// What an I/O error on an upgraded connection means.
    pub fn io_error(self) -> Error {
        match self {
            Self::Downstream => Error::DownstreamClosed,
            Self::Upstream => Error::ClosedInResponse,
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(self.poll_chunk(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            // The reader asks only when it has room, so what it takes counts as passed on.
            let length = data.len();
            self.release(length);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        // With a tail the end must be seen: it is where the record is finished.
        self.is_end() && self.tail.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::H1(incoming) => incoming.size_hint(),
            Kind::H2(_) | Kind::Replay(_) | Kind::Tunnel(_) => SizeHint::default(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.end_upload();
        let ended = self.is_end();
        if !ended {
            self.abandon();
        }
        if let Some(mut tail) = self.tail.take() {
            let whole = ended || tail.is_complete();
            tail.end(if whole {
                Ok(())
            } else {
                Err(&Error::DownstreamClosed)
            });
        }
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self::of(kind, Side::default())
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.kind {
            Kind::Empty => "Empty",
            Kind::Full(_) => "Full",
            Kind::H2(_) => "H2",
            Kind::H1(_) => "H1",
            Kind::Replay(_) => "Replay",
            Kind::Tunnel(_) => "Tunnel",
        };
        f.debug_struct("Body")
            .field("kind", &kind)
            .field("side", &self.side)
            .finish_non_exhaustive()
    }
}

/// The trailers of a body whose bytes do not matter, and how many bytes there were; for tests and local consumers.
pub async fn collect(mut body: Body, limit: usize) -> Result<(Vec<u8>, Option<HeaderMap>), Error> {
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame?.into_data() {
            Ok(data) if bytes.len() + data.len() > limit => {
                return Err(Error::BadRequest("body too large"));
            }
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => return Ok((bytes, frame.into_trailers().ok())),
        }
    }
    Ok((bytes, None))
}
