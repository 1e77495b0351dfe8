//! A request body that can be sent again: what has been read is kept, up to a bound, until the response commits.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::Body;
use crate::error::Error;

/// Per request; a body that is longer is sent once (contract section 8).
const PER_REQUEST: usize = 64 * 1024;
/// Over all requests of a worker.
const PER_WORKER: usize = 8 * 1024 * 1024;

thread_local! {
    static USED: Cell<usize> = const { Cell::new(0) };
}

/// Where the attempts of one request read from.
#[derive(Clone)]
pub struct Source(Rc<RefCell<Shared>>);

/// One attempt's reading.
pub struct Replay {
    source: Source,
    /// Which reading it is; only the latest gets anything.
    number: u32,
    /// Kept chunks that this reading has passed.
    next: usize,
    /// Bytes given out again that the source's flow control has had back already.
    credited: usize,
    trailers_given: bool,
}

struct Shared {
    body: Body,
    /// Readings so far.
    readings: u32,
    /// Of the reading that waits.
    waiting: Option<Waker>,
    kept: Vec<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
    failed: Option<Error>,
    /// Something was not kept: no further reading.
    spoilt: bool,
    /// The response has committed: nothing more is kept.
    committed: bool,
    /// Bytes for which credit has gone back to the source.
    released: usize,
}

impl Source {
    pub fn new(body: Body) -> Self {
        Self(Rc::new(RefCell::new(Shared {
            body,
            readings: 0,
            waiting: None,
            kept: Vec::new(),
            bytes: 0,
            trailers: None,
            ended: false,
            failed: None,
            spoilt: false,
            committed: false,
            released: 0,
        })))
    }

    /// A reading from the start; `None` when not all of what was read is kept. Earlier readings end: an HTTP/1 connection may
    /// go on sending although its answer has been given up, and would take bytes that are kept no more.
    pub fn reading(&self) -> Option<Replay> {
        let mut shared = self.0.borrow_mut();
        shared.readings += 1;
        if let Some(waiting) = shared.waiting.take() {
            waiting.wake();
        }
        (!shared.spoilt).then(|| Replay {
            source: self.clone(),
            number: shared.readings,
            next: 0,
            credited: shared.released,
            trailers_given: false,
        })
    }

    /// Whether another reading is possible now.
    pub fn can_repeat(&self) -> bool {
        let shared = self.0.borrow();
        !shared.spoilt && shared.failed.is_none()
    }

    /// No other reading will be asked for.
    pub fn commit(&self) {
        let mut shared = self.0.borrow_mut();
        shared.committed = true;
    }
}

impl Shared {
    fn keep(&mut self, data: &Bytes) {
        if self.committed {
            self.forget();
            self.spoilt = true;
            return;
        }
        let fits = self.bytes + data.len() <= PER_REQUEST && USED.get() + data.len() <= PER_WORKER;
        if self.spoilt || !fits {
            self.spoilt = true;
            return;
        }
        self.bytes += data.len();
        USED.set(USED.get() + data.len());
        // A copy: a slice would keep the connection's whole read buffer alive.
        self.kept.push(if data.len() < 4_096 {
            Bytes::copy_from_slice(data)
        } else {
            data.clone()
        });
    }

    fn forget(&mut self) {
        USED.set(USED.get().saturating_sub(self.bytes));
        self.bytes = 0;
        self.kept = Vec::new();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Replay {
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut shared = self.source.0.borrow_mut();
        if self.number != shared.readings {
            return Poll::Ready(Some(Err(Error::DownstreamClosed)));
        }
        if let Some(kept) = shared.kept.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(kept.clone()))));
        }
        if shared.committed && !shared.kept.is_empty() {
            // This reading was the last: a stream that goes on for hours must not use up the worker's share.
            shared.forget();
            shared.spoilt = true;
            self.next = 0;
        }
        if let Some(error) = &shared.failed {
            return Poll::Ready(Some(Err(error.clone())));
        }
        if shared.ended {
            let trailers = shared.trailers.clone().filter(|_| !self.trailers_given);
            self.trailers_given = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let Poll::Ready(chunk) = shared.body.poll_chunk(cx) else {
            match &mut shared.waiting {
                Some(waiting) => waiting.clone_from(cx.waker()),
                None => shared.waiting = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        };
        match chunk {
            None => {
                shared.ended = true;
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                shared.failed = Some(error.clone());
                Poll::Ready(Some(Err(error)))
            }
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    shared.keep(data);
                    self.next = shared.kept.len();
                } else if let Some(trailers) = frame.trailers_ref() {
                    shared.trailers = Some(trailers.clone());
                    shared.ended = true;
                    self.trailers_given = true;
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    pub(super) fn read_ahead(&self) -> usize {
        self.source.0.borrow().body.read_ahead()
    }

    pub(super) fn release(&mut self, bytes: usize) {
        if self.number != self.source.0.borrow().readings {
            // The latest reading gives the same bytes back.
            return;
        }
        // What an earlier reading gave back already is not given back twice.
        let again = bytes.min(self.credited);
        self.credited -= again;
        let mut shared = self.source.0.borrow_mut();
        shared.released += bytes - again;
        shared.body.release(bytes - again);
    }

    pub(super) fn is_end(&self) -> bool {
        let shared = self.source.0.borrow();
        if self.number != shared.readings {
            // Not a clean end: what has been sent is not the whole.
            return false;
        }
        if self.next < shared.kept.len() || shared.failed.is_some() {
            return false;
        }
        if shared.ended {
            self.trailers_given || shared.trailers.is_none()
        } else {
            shared.body.is_end()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(replay: &mut Replay) -> Vec<u8> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut bytes = Vec::new();
        while let Poll::Ready(Some(Ok(frame))) = replay.poll(&mut cx) {
            bytes.extend_from_slice(frame.data_ref().unwrap());
        }
        bytes
    }

    #[test]
    fn reads_again_from_the_start() {
        let source = Source::new(Body::full("hello"));
        assert_eq!(read(&mut source.reading().unwrap()), b"hello");
        assert_eq!(read(&mut source.reading().unwrap()), b"hello");
        assert!(source.reading().unwrap().source.can_repeat());
    }

    #[test]
    fn an_earlier_reading_takes_nothing_from_a_later_one() {
        let source = Source::new(Body::full("hello"));
        let mut given_up = source.reading().unwrap();
        let mut latest = source.reading().unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(!given_up.is_end());
        assert!(matches!(given_up.poll(&mut cx), Poll::Ready(Some(Err(_)))));
        assert_eq!(read(&mut latest), b"hello");
    }

    #[test]
    fn reads_ahead_no_further_than_what_stands_behind() {
        let body = Body::full("hello");
        let limit = body.read_ahead();
        assert_eq!(Source::new(body).reading().unwrap().read_ahead(), limit);
    }

    #[test]
    fn what_is_too_long_is_sent_once() {
        let source = Source::new(Body::full(vec![0; PER_REQUEST + 1]));
        assert_eq!(read(&mut source.reading().unwrap()).len(), PER_REQUEST + 1);
        assert!(!source.can_repeat());
        assert!(source.reading().is_none());
    }

    #[test]
    fn what_is_kept_goes_with_the_commit() {
        let source = Source::new(Body::full("hello"));
        let mut reading = source.reading().unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(reading.poll(&mut cx), Poll::Ready(Some(Ok(_)))));
        assert_eq!(source.0.borrow().kept.len(), 1);
        source.commit();
        assert!(matches!(reading.poll(&mut cx), Poll::Ready(None)));
        assert!(source.0.borrow().kept.is_empty());
        assert_eq!(USED.get(), 0);
        assert!(!source.can_repeat());
    }

    #[test]
    fn the_worker_has_a_bound_and_gets_it_back() {
        let sources: Vec<Source> = (0..200)
            .map(|_| Source::new(Body::full(vec![0; PER_REQUEST])))
            .collect();
        for source in &sources {
            read(&mut source.reading().unwrap());
        }
        assert_eq!(
            sources.iter().filter(|source| source.can_repeat()).count(),
            PER_WORKER / PER_REQUEST
        );
        drop(sources);
        assert_eq!(USED.get(), 0);
    }
}
