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

/// Looks at what the client sends until it is told apart. `silence` bounds the wait for the first byte;
/// without it the wait is as long as the client's patience.
pub async fn detect(
    stream: &mut Stream,
    expect: Expect,
    silence: Option<Duration>,
) -> io::Result<Detected> {
    let mut read = BytesMut::new();
    let detected = look(stream, &mut read, expect, silence, None).await;
    stream.unread(read.freeze());
    detected
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
        detected = look(stream, &mut read, expect, None, Some(UNDECIDED)) => detected.map(Some),
        heard = upstream.read_buf(said) => heard.map(|_| None),
    };
    stream.unread(read.freeze());
    detected
}

/// `silence` bounds the wait for the first byte, `undecided` the time after it.
async fn look(
    stream: &mut Stream,
    read: &mut BytesMut,
    expect: Expect,
    silence: Option<Duration>,
    undecided: Option<Duration>,
) -> io::Result<Detected> {
    // Only where the server may speak first is a hesitating client given up on: declared ports wait.
    let undecided = undecided.or(silence.map(|_| UNDECIDED));
    let mut deadline = silence.map(|silence| Instant::now() + silence);
    loop {
        let length = match deadline {
            Some(deadline) => match timeout_at(deadline, read_some(stream, read)).await {
                Ok(length) => length?,
                Err(_) if read.is_empty() => return Ok(Detected::Silent),
                Err(_) => return Ok(Detected::Spoken(Spoken::Raw)),
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
            deadline = undecided.map(|undecided| Instant::now() + undecided);
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
