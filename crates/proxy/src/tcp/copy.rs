//! Copies bytes both ways until both halves have ended, one fails, or nothing moved for long.
//!
//! A connection that is idle holds no buffer: bytes are read into one buffer per thread and written on at
//! once; only what the other side does not take is kept, and then nothing more is read. So a slow reader
//! slows its writer, and ten thousand idle connections cost nothing but their sockets.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Read at a time; as large as a TLS record's payload times four.
const CHUNK: usize = 64 * 1024;

/// Reads that one half may do before the other has its turn.
const TURNS: usize = 8;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// How many bytes have passed; readable while copying goes on.
#[derive(Debug, Default)]
pub struct Progress {
    /// From the client to the upstream.
    pub up: Cell<u64>,
    /// From the upstream to the client.
    pub down: Cell<u64>,
}

/// Why copying ended early.
#[derive(Debug)]
pub enum Broken {
    /// Reading from or writing to the client failed.
    Client(io::Error),
    /// Reading from or writing to the upstream failed.
    Upstream(io::Error),
    /// Nothing moved for the idle time.
    Idle,
}

/// One direction.
#[derive(Debug, Default)]
struct Half {
    /// Read, but not written yet.
    pending: Bytes,
    /// Written, but perhaps kept by the writer: TLS keeps what it was given until it is flushed. Outlives a poll, because
    /// flushing may have to wait too.
    unflushed: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Copying,
    /// The reader has ended: the writer is told when everything is written.
    Ended,
    Done,
}

/// A failure, and whether reading caused it.
struct Failed {
    error: io::Error,
    reading: bool,
}

/// Copies until the end of both directions. The end of one is passed on and the other goes on (half-close).
/// `down_first` was read from the upstream already.
pub async fn copy_both<C, U>(
    client: &mut C,
    upstream: &mut U,
    down_first: Bytes,
    idle: Duration,
    progress: &Progress,
) -> Result<(), Broken>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut up = Half::default();
    let mut down = Half {
        pending: down_first,
        ..Half::default()
    };
    let timer = tokio::time::sleep(idle);
    tokio::pin!(timer);
    let mut moved = (0, 0);
    poll_fn(|cx| {
        let first = up.poll(cx, client, upstream, &progress.up);
        let second = down.poll(cx, upstream, client, &progress.down);
        if let Poll::Ready(Err(failed)) = first {
            let blame = if failed.reading {
                Broken::Client
            } else {
                Broken::Upstream
            };
            return Poll::Ready(Err(blame(failed.error)));
        }
        if let Poll::Ready(Err(failed)) = second {
            let blame = if failed.reading {
                Broken::Upstream
            } else {
                Broken::Client
            };
            return Poll::Ready(Err(blame(failed.error)));
        }
        if first.is_ready() && second.is_ready() {
            return Poll::Ready(Ok(()));
        }
        let now = (progress.up.get(), progress.down.get());
        if now != moved {
            moved = now;
            timer.as_mut().reset(Instant::now() + idle);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(Broken::Idle))
    })
    .await
}

impl Half {
    /// Ready when this direction has ended and the writer knows.
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        count: &Cell<u64>,
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let writing = |error| Failed {
            error,
            reading: false,
        };
        if self.state == State::Done {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..TURNS {
            while !self.pending.is_empty() {
                let length = ready!(Pin::new(&mut *writer).poll_write(cx, &self.pending))
                    .map_err(writing)?;
                if length == 0 {
                    return Poll::Ready(Err(writing(io::ErrorKind::WriteZero.into())));
                }
                add(count, length);
                self.pending.advance(length);
                self.unflushed = true;
            }
            self.pending = Bytes::new();
            if self.state == State::Ended {
                ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(writing)?;
                self.state = State::Done;
                return Poll::Ready(Ok(()));
            }
            if self.pass(cx, reader, writer, count)?.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(writer).poll_flush(cx)).map_err(writing)?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once and writes at once as much as is taken.
    fn pass<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        count: &Cell<u64>,
    ) -> Result<Poll<()>, Failed>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(reader).poll_read(cx, &mut buffer) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Err(error)) => {
                    return Err(Failed {
                        error,
                        reading: true,
                    });
                }
                Poll::Ready(Ok(())) => {}
            }
            let read = buffer.filled();
            if read.is_empty() {
                self.state = State::Ended;
                return Ok(Poll::Ready(()));
            }
            let taken = match Pin::new(writer).poll_write(cx, read) {
                Poll::Ready(Ok(taken)) => taken,
                Poll::Ready(Err(error)) => {
                    return Err(Failed {
                        error,
                        reading: false,
                    });
                }
                Poll::Pending => 0,
            };
            add(count, taken);
            self.unflushed |= taken > 0;
            self.pending = Bytes::copy_from_slice(&read[taken..]);
            Ok(Poll::Ready(()))
        })
    }
}

fn add(count: &Cell<u64>, length: usize) {
    count.set(count.get().saturating_add(length as u64));
}

#[cfg(test)]
mod tests;
