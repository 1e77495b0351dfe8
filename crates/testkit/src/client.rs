//! Single requests, and raw connections, made from inside a namespace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::load::Protocol;
use crate::namespace::Namespace;

const LIMIT: Duration = Duration::from_secs(20);

/// A whole response.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
    pub trailers: HeaderMap,
}

impl Answer {
    /// A header, or else a trailer; empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .or_else(|| self.trailers.get(name))
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
    }

    /// The body as JSON, `null` if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// One request to make. The target of [`Self::path`] is sent as it is, so that odd paths arrive odd.
#[derive(Clone, Debug)]
pub struct Ask {
    pub target: SocketAddr,
    pub authority: String,
    pub protocol: Protocol,
    pub method: Method,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Ask {
    pub fn get(target: SocketAddr, authority: &str, path: &str) -> Self {
        Self {
            target,
            authority: authority.to_owned(),
            protocol: Protocol::Http1,
            method: Method::GET,
            path: path.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// gRPC implies POST, its content type, and a length-prefixed body.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        if protocol == Protocol::Grpc {
            self.method = Method::POST;
            self.body = Bytes::from_static(&[0, 0, 0, 0, 0]);
            return self
                .header("content-type", "application/grpc")
                .header("te", "trailers");
        }
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends it from inside `namespace`.
    pub fn send(self, namespace: &Namespace) -> Result<Answer> {
        namespace.block_on(move || async move {
            let what = format!("{} {} at {}", self.method, self.path, self.target);
            tokio::time::timeout(LIMIT, exchange(self))
                .await
                .with_context(|| format!("{what}: no answer within {LIMIT:?}"))?
                .context(what)
        })?
    }
}

async fn exchange(ask: Ask) -> Result<Answer> {
    let stream = tokio::net::TcpStream::connect(ask.target).await?;
    let io = TokioIo::new(stream);
    let mut request = Request::builder().method(ask.method);
    for (name, value) in &ask.headers {
        request = request.header(name, value);
    }
    let body = Full::new(ask.body);
    let response = if ask.protocol == Protocol::Http1 {
        let (mut sender, connection) = http1::handshake(io).await?;
        tokio::spawn(async move { drop(connection.await) });
        sender
            .send_request(
                request
                    .uri(&ask.path)
                    .header("host", &ask.authority)
                    .body(body)?,
            )
            .await?
    } else {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(async move { drop(connection.await) });
        let uri = format!("http://{}{}", ask.authority, ask.path);
        sender
            .send_request(request.uri(uri).version(http::Version::HTTP_2).body(body)?)
            .await?
    };
    let (head, body) = response.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
        trailers,
    })
}

/// Opens a connection from inside the namespace, with time limits set on it.
pub fn connect(namespace: &Namespace, target: SocketAddr) -> Result<TcpStream> {
    let stream = namespace
        .run(|| TcpStream::connect_timeout(&target, LIMIT))?
        .with_context(|| format!("connecting to {target}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// Sends bytes as they are, and returns all that comes back until the peer closes.
pub fn raw(namespace: &Namespace, target: SocketAddr, bytes: &[u8]) -> Result<String> {
    let mut stream = connect(namespace, target)?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
