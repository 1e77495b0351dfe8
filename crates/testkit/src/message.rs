//! Small numbered gRPC messages on the bare `h2` crate, each in a DATA frame of its own, for tests of what
//! happens when one side does not read.
//!
//! Both ends count their own unread frames generously: what is tested is the proxies between them.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::HeaderMap;

/// Bytes of a message, its five bytes of gRPC framing included.
pub const LENGTH: usize = 20;
/// Overhead of unread small frames that an end takes from its peer: none of these tests comes near.
pub const FRAME_BUDGET: usize = 1 << 30;

/// The message with this number.
pub fn message(number: u64) -> Bytes {
    Bytes::from(format!("\0\0\0\0\x0f{number:015}"))
}

/// Sends one message as soon as there is credit for it.
///
/// # Errors
/// The stream was reset or its connection ended.
pub async fn send(sink: &mut SendStream<Bytes>, number: u64) -> Result<()> {
    send_frame(sink, message(number)).await
}

/// The same with several in one DATA frame.
///
/// # Errors
/// As [`send`].
pub async fn send_together(sink: &mut SendStream<Bytes>, numbers: Range<u64>) -> Result<()> {
    let messages: Vec<u8> = numbers.flat_map(message).collect();
    send_frame(sink, messages.into()).await
}

async fn send_frame(sink: &mut SendStream<Bytes>, data: Bytes) -> Result<()> {
    sink.reserve_capacity(data.len());
    while sink.capacity() < data.len() {
        let capacity = std::future::poll_fn(|cx| sink.poll_capacity(cx)).await;
        capacity.context("the stream ended")??;
    }
    Ok(sink.send_data(data, false)?)
}

/// Ends a stream as gRPC does.
///
/// # Errors
/// The stream was reset or its connection ended.
pub fn end(sink: &mut SendStream<Bytes>) -> Result<()> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    Ok(sink.send_trailers(trailers)?)
}

/// The messages of a stream, which are numbered from 0.
pub struct Messages {
    source: RecvStream,
    buffer: BytesMut,
    number: u64,
}

impl Messages {
    pub fn new(source: RecvStream) -> Self {
        Self {
            source,
            buffer: BytesMut::new(),
            number: 0,
        }
    }

    /// Whether another came; fails if one is missing or changed, or if the stream does not end with its
    /// trailers.
    ///
    /// # Errors
    /// As said, or the stream was reset or its connection ended.
    pub async fn next(&mut self) -> Result<bool> {
        while self.buffer.len() < LENGTH {
            let Some(data) = self.source.data().await else {
                ensure!(self.buffer.is_empty(), "it ends inside a message");
                let trailers = self.source.trailers().await?;
                let status = trailers.as_ref().and_then(|all| all.get("grpc-status"));
                ensure!(status.is_some_and(|status| status == "0"), "{trailers:?}");
                return Ok(false);
            };
            let data = data?;
            self.source.flow_control().release_capacity(data.len())?;
            self.buffer.extend_from_slice(&data);
        }
        let expected = message(self.number);
        ensure!(
            self.buffer[..LENGTH] == expected,
            "instead of {}",
            self.number
        );
        self.buffer.advance(LENGTH);
        self.number += 1;
        Ok(true)
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// As [`Messages::next`].
    pub async fn count(mut self) -> Result<u64> {
        while self.next().await? {}
        Ok(self.number)
    }
}
