//! From a body into an HTTP/2 stream, with the sink's flow control passed back to the source.
//!
//! While the sink is stalled, what an HTTP/2 source has received is taken out of the `h2` crate and small frames are
//! joined: that crate charges unread small DATA frames to a budget of the whole connection and closes it when the
//! budget is spent, so one stalled stream of tiny messages would end all others. The bytes held are bounded by
//! the source's stream window, because credit goes back only for what has been sent.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{Reason, SendStream};
use http::HeaderMap;

use super::Body;
use crate::error::Error;

/// Chunks below this size are joined while the sink is stalled.
const SMALL: usize = 4 * 1024;
/// What joined chunks grow to.
const JOINED: usize = 16 * 1024;

/// A copy in progress.
pub struct Pump {
    source: Body,
    sink: SendStream<Bytes>,
    queue: Queue,
    trailers: Option<HeaderMap>,
    source_done: bool,
}

/// How a copy ended.
#[derive(Debug)]
pub enum Ended {
    /// END_STREAM has been handed to the `h2` crate.
    Complete,
    /// The sink's peer reset the stream or went away; the reason if there was one.
    SinkClosed(Option<Reason>),
    /// The source failed. The sink is still open.
    SourceFailed(Error),
}

impl Pump {
    pub fn new(source: Body, sink: SendStream<Bytes>) -> Self {
        Self {
            source,
            sink,
            queue: Queue::default(),
            trailers: None,
            source_done: false,
        }
    }

    /// Copies as far as it goes.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            if let Err(error) = self.fill(cx) {
                return Poll::Ready(Ended::SourceFailed(error));
            }
            if !self.queue.is_empty() {
                match self.drain(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(true)) => return Poll::Ready(Ended::Complete),
                    Poll::Ready(Ok(false)) => continue,
                    Poll::Ready(Err(reason)) => return Poll::Ready(Ended::SinkClosed(reason)),
                }
            }
            if self.source_done {
                let sent = match self.trailers.take() {
                    Some(trailers) => self.sink.send_trailers(trailers),
                    None => self.sink.send_data(Bytes::new(), true),
                };
                return Poll::Ready(sent.map_or_else(
                    |error| Ended::SinkClosed(error.reason()),
                    |()| Ended::Complete,
                ));
            }
            return match self.sink.poll_reset(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(reason)) => Poll::Ready(Ended::SinkClosed(Some(reason))),
                Poll::Ready(Err(error)) => Poll::Ready(Ended::SinkClosed(error.reason())),
            };
        }
    }

    /// Tells the sink that its source has failed.
    pub fn reset(&mut self, error: &Error) {
        self.sink.send_reset(reset_reason(error));
    }

    /// Takes what the source has.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let limit = self.source.read_ahead();
        while !self.source_done && self.queue.len < limit {
            match self.source.poll_chunk(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => self.source_done = true,
                Poll::Ready(Some(frame)) => match frame?.into_data() {
                    // Never forwarded: an empty non-final DATA frame counts as abuse at the receiver.
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => self.queue.push(data),
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        self.source_done = true;
                    }
                },
            }
            // Known now, END_STREAM goes out on the last DATA frame instead of one of its own.
            self.source_done |= self.source.is_end();
        }
        Ok(())
    }

    /// Sends as much of the queue as there is credit for. `Ok(true)` when that was the end.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Option<Reason>>> {
        self.sink.reserve_capacity(self.queue.len);
        let mut credit = self.sink.capacity();
        while credit == 0 {
            match self.sink.poll_capacity(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(capacity))) => credit = capacity,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.reason())),
                Poll::Ready(None) => return Poll::Ready(Err(None)),
            }
        }
        let chunk = self.queue.take(credit);
        let length = chunk.len();
        let end = self.source_done && self.queue.is_empty() && self.trailers.is_none();
        let sent = self
            .sink
            .send_data(chunk, end)
            .map_err(|error| error.reason());
        self.source.release(length);
        Poll::Ready(sent.map(|()| end))
    }
}

/// What a sink is told when its source failed. Nothing that invites a retry: bytes have passed.
fn reset_reason(error: &Error) -> Reason {
    match error {
        Error::DownstreamClosed | Error::RouteTimeout | Error::StreamIdle => Reason::CANCEL,
        Error::ResetInResponse(code) => match Reason::from(*code) {
            Reason::NO_ERROR | Reason::REFUSED_STREAM => Reason::INTERNAL_ERROR,
            reason => reason,
        },
        _ => Reason::INTERNAL_ERROR,
    }
}

/// Bytes between source and sink. The first chunk has a place of its own, so that the common case allocates nothing.
#[derive(Default)]
struct Queue {
    first: Bytes,
    more: VecDeque<Bytes>,
    joined: BytesMut,
    len: usize,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn push(&mut self, data: Bytes) {
        self.len += data.len();
        if self.len == data.len() {
            self.first = data;
            return;
        }
        if data.len() < SMALL {
            self.joined.put_slice(&data);
            if self.joined.len() >= JOINED {
                self.seal();
            }
        } else {
            self.seal();
            self.more.push_back(data);
        }
    }

    fn seal(&mut self) {
        if !self.joined.is_empty() {
            self.more.push_back(self.joined.split().freeze());
        }
    }

    /// The oldest bytes, at most `limit` of them and at least one.
    fn take(&mut self, limit: usize) -> Bytes {
        let chunk = if self.first.remaining() > limit {
            self.first.split_to(limit)
        } else {
            let chunk = std::mem::take(&mut self.first);
            if self.more.is_empty() {
                self.seal();
            }
            self.first = self.more.pop_front().unwrap_or_default();
            chunk
        };
        self.len -= chunk.len();
        chunk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_chunks_are_joined_and_order_is_kept() {
        let mut queue = Queue::default();
        let mut expected = Vec::new();
        for i in 0..10_000_u32 {
            let chunk = if i % 1_000 == 999 {
                vec![i as u8; SMALL]
            } else {
                vec![i as u8; 20]
            };
            expected.extend_from_slice(&chunk);
            queue.push(Bytes::from(chunk));
        }
        assert!(queue.more.len() < 40, "{}", queue.more.len());
        assert_eq!(queue.len, expected.len());
        let mut seen = Vec::new();
        while !queue.is_empty() {
            seen.extend_from_slice(&queue.take(7_001));
        }
        assert_eq!(seen, expected);
    }
}
