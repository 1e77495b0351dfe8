//! What does the client speak? Reads as little as it takes to tell HTTP/1, HTTP/2, TLS and the rest apart.
//!
//! What is read here is put back in front of the connection, so no byte is lost, and the end of the client's
//! half is seen again by whoever reads next. Detection waits for nothing but the client; what to do when it
//! stays silent is the itinerary's business (contract section 6).

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::time::{Instant, timeout_at};

use crate::http::h1::HEAD_TIMEOUT;
use crate::stream::Stream;

pub mod client_hello;
pub mod http_preface;

pub use self::client_hello::{ClientHello, Hello, client_hello};
pub use self::http_preface::{Preface, http_preface};

/// What is read at most before a decision (contract section 8).
pub const BUFFER: usize = 16 * 1024;

/// Without a byte for this long the connection may be one on which the server speaks first.
pub const SILENCE: Duration = Duration::from_millis(100);

/// A client that has begun, but whose bytes decide nothing for this long, speaks something else.
const UNDECIDED: Duration = Duration::from_secs(5);

/// How long a client may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The server may speak first: [`SILENCE`] ends the detection, and a client that hesitates speaks something else.
    Briefly,
    /// The client must speak, and begin within this time. The port is never timed out of detection: a client that has begun
    /// and takes longer than a request's head may is not waited for.
    ForClient(Duration),
}

/// What the client speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spoken {
    Http1,
    Http2,
    Tls(ClientHello),
    /// Nothing that is known here.
    Raw,
}

/// What is looked for: fewer possibilities decide sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    pub tls: bool,
    pub http: bool,
}

/// What detection found out.
#[derive(Debug, PartialEq, Eq)]
pub enum Detected {
    Spoken(Spoken),
    /// Nothing arrived within the time given; nothing was read.
    Silent,
    /// The client ended its half before it said anything.
    Ended,
}

/// Looks at what the client sends until it is told apart.
///
/// # Errors
/// What reading fails with; `TimedOut` when the client must speak and is too slow about it.
pub async fn detect(stream: &mut Stream, expect: Expect, wait: Wait) -> io::Result<Detected> {
    let mut read = BytesMut::new();
    let (first, slow) = match wait {
        Wait::Briefly => (SILENCE, Slow::SpeaksOtherwise),
        Wait::ForClient(first) => (first, Slow::IsLost),
    };
    let detected = look(stream, &mut read, expect, Some(first), slow).await;
    stream.unread(read.freeze());
    detected
}

/// What becomes of a client that has begun and then hesitates.
#[derive(Clone, Copy)]
enum Slow {
    SpeaksOtherwise,
    IsLost,
}

/// As [`detect`] on a connection that was silent, while `upstream` may speak first. What the server said first
/// is appended to `said`, and the answer is `None`.
pub async fn detect_or_hear<U: AsyncRead + Unpin>(
    stream: &mut Stream,
    expect: Expect,
    upstream: &mut U,
    said: &mut BytesMut,
) -> io::Result<Option<Detected>> {
    let mut read = BytesMut::new();
    // Both reads may be abandoned half-way: bytes that were read stay in their buffers.
    let detected = tokio::select! {
        detected = look(stream, &mut read, expect, None, Slow::SpeaksOtherwise) => detected.map(Some),
        heard = upstream.read_buf(said) => heard.map(|_| None),
    };
    stream.unread(read.freeze());
    detected
}

/// `first` bounds the wait for the first byte; `slow` says how long the rest may take, and what follows.
async fn look(
    stream: &mut Stream,
    read: &mut BytesMut,
    expect: Expect,
    first: Option<Duration>,
    slow: Slow,
) -> io::Result<Detected> {
    let mut deadline = first.map(|first| Instant::now() + first);
    loop {
        let length = match deadline {
            Some(deadline) => match timeout_at(deadline, read_some(stream, read)).await {
                Ok(length) => length?,
                Err(_) if read.is_empty() => return Ok(Detected::Silent),
                Err(_) => return slow.gives_up(),
            },
            None => read_some(stream, read).await?,
        };
        if length == 0 && read.is_empty() {
            // The end is seen again by the next read: a socket at its end stays there.
            return Ok(Detected::Ended);
        }
        if let Some(spoken) = classify(read, expect) {
            return Ok(Detected::Spoken(spoken));
        }
        if length == 0 {
            return Ok(Detected::Spoken(Spoken::Raw));
        }
        if read.len() >= BUFFER {
            return Ok(Detected::Spoken(at_limit(read, expect)));
        }
        if read.len() == length {
            // From the first byte on, however many follow.
            deadline = Some(Instant::now() + slow.time());
        }
    }
}

impl Slow {
    fn time(self) -> Duration {
        match self {
            Self::SpeaksOtherwise => UNDECIDED,
            Self::IsLost => HEAD_TIMEOUT,
        }
    }

    fn gives_up(self) -> io::Result<Detected> {
        match self {
            Self::SpeaksOtherwise => Ok(Detected::Spoken(Spoken::Raw)),
            Self::IsLost => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Reads once, never beyond [`BUFFER`] in all. Nothing is set aside for a client that stays silent.
async fn read_some(stream: &mut Stream, read: &mut BytesMut) -> io::Result<usize> {
    thread_local! {
        static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
    }
    poll_fn(|cx| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(&mut scratch[..BUFFER - read.len()]);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
            read.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    })
    .await
}

/// `None`: the bytes so far may still become more than one thing.
pub fn classify(bytes: &[u8], expect: Expect) -> Option<Spoken> {
    let tls = if expect.tls {
        client_hello(bytes)
    } else {
        Hello::NotTls
    };
    match tls {
        Hello::Complete(hello) => return Some(Spoken::Tls(hello)),
        Hello::More => return None,
        Hello::NotTls => {}
    }
    if !expect.http {
        return Some(Spoken::Raw);
    }
    match http_preface(bytes) {
        Preface::Http1 => Some(Spoken::Http1),
        Preface::Http2 => Some(Spoken::Http2),
        Preface::Other => Some(Spoken::Raw),
        Preface::More => None,
    }
}

/// The buffer is full and nothing is decided: a request line this long is still HTTP, so that its length does
/// not lead it around policies; a ClientHello this long is nobody's.
fn at_limit(bytes: &[u8], expect: Expect) -> Spoken {
    let tls = expect.tls && client_hello(bytes) != Hello::NotTls;
    if expect.http && !tls {
        Spoken::Http1
    } else {
        Spoken::Raw
    }
}

#[cfg(test)]
mod tests;
