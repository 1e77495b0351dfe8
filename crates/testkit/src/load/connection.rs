//! One client connection of the load client.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use anyhow::Result;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::Protocol;

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

pub enum Connection {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// How a request ended.
pub struct End {
    /// `200`, `503`, `grpc:0`.
    pub outcome: String,
    /// The one that the answer names.
    pub backend: String,
    /// Bytes of its body.
    pub length: usize,
}

type Sending = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

impl Connection {
    pub async fn open(target: SocketAddr, protocol: Protocol) -> Result<Self> {
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                // Its error also reaches the request in flight.
                tokio::spawn(async move { drop(connection.await) });
                Ok(Self::Http1(sender))
            }
            Protocol::Http2 | Protocol::Grpc | Protocol::GrpcStream => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.timer(TokioTimer::new());
                let (sender, connection) = builder.handshake(io).await?;
                tokio::spawn(async move { drop(connection.await) });
                Ok(Self::Http2(sender))
            }
        }
    }

    pub fn usable(&self) -> bool {
        match self {
            Self::Http1(sender) => !sender.is_closed(),
            Self::Http2(sender) => !sender.is_closed(),
        }
    }

    pub async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Self::Http1(sender) => sender.ready().await,
            Self::Http2(sender) => sender.ready().await,
        }
    }

    pub fn send(&mut self, request: Request<Body>) -> Sending {
        match self {
            Self::Http1(sender) => Box::pin(sender.send_request(request)),
            Self::Http2(sender) => Box::pin(sender.send_request(request)),
        }
    }
}

/// Reads the answer to its end.
pub async fn finish(sending: Sending, protocol: Protocol) -> Result<End> {
    let response = sending.await?;
    let (head, mut body) = response.into_parts();
    let mut trailers = HeaderMap::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        length += frame.data_ref().map_or(0, Bytes::len);
        if let Ok(found) = frame.into_trailers() {
            trailers = found;
        }
    }
    let text = |name: &str, headers: &HeaderMap| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned)
    };
    let backend = text("x-backend", &head.headers).unwrap_or_default();
    let outcome = if protocol.is_grpc() {
        let code = text("grpc-status", &trailers).or_else(|| text("grpc-status", &head.headers));
        format!(
            "grpc:{}",
            code.unwrap_or_else(|| format!("none(http {})", head.status.as_u16()))
        )
    } else {
        head.status.as_u16().to_string()
    };
    Ok(End {
        outcome,
        backend,
        length,
    })
}

/// A body that is there at once.
pub fn whole(body: Bytes) -> Body {
    Full::new(body).boxed_unsync()
}

/// The same message several times, with a pause between.
pub fn paced(message: Bytes, (count, pause): (u32, Duration)) -> Body {
    let messages = stream::unfold(0, move |sent| {
        let message = message.clone();
        async move {
            if sent == count {
                return None;
            }
            if sent > 0 {
                tokio::time::sleep(pause).await;
            }
            Some((Ok(Frame::data(message)), sent + 1))
        }
    });
    StreamBody::new(messages).boxed_unsync()
}

/// A gRPC length-prefixed message.
pub fn grpc_message(payload: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(payload.len() + 5);
    message.put_u8(0);
    message.put_u32(payload.len() as u32);
    message.put_slice(payload);
    message.freeze()
}
