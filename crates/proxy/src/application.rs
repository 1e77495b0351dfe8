//! The way to the application for what is no traffic of the mesh: probes, hooks and scrapes.
//!
//! Dialled as inbound traffic is (contract section 5): at the Pod's own address, so that ports bound to loopback stay
//! private, and from 127.0.0.6, which interception leaves alone. Never the proxy's own listeners.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::AbortHandle;

use crate::headers::strip_hop_by_hop;
use crate::loop_guard::LoopGuard;
use crate::original_dst::canonical;

mod unverified;

/// The longest header block of an answer.
const HEAD: usize = 64 * 1024;

/// Where the application is.
#[derive(Clone, Debug)]
pub struct Application {
    ip: IpAddr,
    guard: Arc<LoopGuard>,
}

/// Why the application did not answer. Says nothing of what it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("nothing listens there")]
    NoConnection,
    #[error("no answer in time")]
    Timeout,
    #[error("no TLS")]
    Tls,
    #[error("no answer that could be read")]
    Broken,
    #[error("not an address of the application")]
    NotTheApplication,
    #[error("cannot be performed; the sidecar's log says why")]
    Impossible,
}

/// Host and port, as a check names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `None`: the Pod's own address.
    pub host: Option<String>,
    pub port: u16,
}

/// An answer whose body can still be read; dropping it closes the connection.
pub struct Answer {
    pub response: Response<Incoming>,
    _connection: Driven,
}

/// A connection that is moved by a task of its own.
struct Driven(AbortHandle);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Application {
    /// The application of the Pod at `ip`.
    pub fn new(ip: IpAddr, guard: LoopGuard) -> Application {
        Application {
            ip,
            guard: Arc::new(guard),
        }
    }

    /// How the application's address is written in a URL.
    pub fn authority(&self, place: &Place) -> String {
        match &place.host {
            Some(host) if host.contains(':') => format!("[{host}]:{}", place.port),
            Some(host) => format!("{host}:{}", place.port),
            None => SocketAddr::new(self.ip, place.port).to_string(),
        }
    }

    /// Opens a TCP connection.
    pub async fn dial(&self, place: &Place) -> Result<TcpStream, Failure> {
        let Some(host) = &place.host else {
            return self
                .connect(SocketAddr::new(self.ip, place.port), true)
                .await;
        };
        let found = tokio::net::lookup_host((host.as_str(), place.port)).await;
        let mut failure = Failure::NoConnection;
        for address in found.map_err(|_| failure)?.map(canonical) {
            // On the kubelet's side this would be the node's; on ours it is what the application keeps to itself.
            if address.ip().is_loopback() || address.ip().is_unspecified() {
                failure = Failure::NotTheApplication;
                continue;
            }
            match self.connect(address, address.ip() == self.ip).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn connect(&self, address: SocketAddr, own: bool) -> Result<TcpStream, Failure> {
        if self.guard.refuses(address) {
            return Err(Failure::NotTheApplication);
        }
        let (socket, source): (_, IpAddr) = match address {
            SocketAddr::V4(_) => (TcpSocket::new_v4(), Ipv4Addr::new(127, 0, 0, 6).into()),
            SocketAddr::V6(_) => (
                TcpSocket::new_v6(),
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
            ),
        };
        let socket = socket.map_err(|_| Failure::NoConnection)?;
        if own && let Err(error) = socket.bind(SocketAddr::new(source, 0)) {
            // `::6` is there only where IPv6 is intercepted; elsewhere any source will do.
            tracing::debug!(%error, %source, "not bound");
        }
        let stream = socket.connect(address).await;
        let stream = stream.map_err(|_| Failure::NoConnection)?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    /// GETs over a connection of its own.
    pub async fn get(
        &self,
        place: &Place,
        tls: bool,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Answer, Failure> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = path.parse().map_err(|_| Failure::Broken)?;
        *request.headers_mut() = headers;
        let stream = self.dial(place).await?;
        if !tls {
            return over_http1(stream, request, &self.authority(place)).await;
        }
        let name = match &place.host {
            Some(host) => ServerName::try_from(host.clone()).map_err(|_| Failure::Tls)?,
            None => ServerName::from(self.ip),
        };
        let connector = tokio_rustls::TlsConnector::from(unverified::config()?);
        let session = connector.connect(name, stream).await;
        let session = session.map_err(|_| Failure::Tls)?;
        if session.get_ref().1.alpn_protocol() == Some(b"h2") {
            over_http2(session, request, "https", &self.authority(place)).await
        } else {
            over_http1(session, request, &self.authority(place)).await
        }
    }
}

async fn over_http1<IO>(
    io: IO,
    mut request: Request<Empty<Bytes>>,
    authority: &str,
) -> Result<Answer, Failure>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let headers = request.headers_mut();
    if !headers.contains_key(header::HOST) {
        let value = HeaderValue::from_str(authority).map_err(|_| Failure::Broken)?;
        headers.insert(header::HOST, value);
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let handshake = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD)
        .handshake(TokioIo::new(io))
        .await;
    let (mut sender, connection) = handshake.map_err(|_| Failure::Broken)?;
    let connection = Driven(tokio::spawn(connection).abort_handle());
    let response = sender.send_request(request).await;
    Ok(Answer {
        response: response.map_err(|_| Failure::Broken)?,
        _connection: connection,
    })
}

async fn over_http2<IO>(
    io: IO,
    mut request: Request<Empty<Bytes>>,
    scheme: &str,
    authority: &str,
) -> Result<Answer, Failure>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let headers = request.headers_mut();
    // Of one hop over HTTP/1; HTTP/2 knows no such thing (RFC 9113, 8.2.2).
    strip_hop_by_hop(headers);
    let named = headers.remove(header::HOST);
    let named = named.as_ref().and_then(|host| host.to_str().ok());
    *request.uri_mut() = Uri::builder()
        .scheme(scheme)
        .authority(named.unwrap_or(authority))
        .path_and_query(
            request
                .uri()
                .path_and_query()
                .map_or("/", |path| path.as_str()),
        )
        .build()
        .map_err(|_| Failure::Broken)?;
    send_http2(io, request).await
}

/// Sends a request whose URI is absolute over a new HTTP/2 connection.
pub async fn send_http2<IO, B>(io: IO, mut request: Request<B>) -> Result<Answer, Failure>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: http_body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + Unpin + 'static,
{
    *request.version_mut() = Version::HTTP_2;
    let handshake = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(HEAD as u32)
        .handshake(TokioIo::new(io))
        .await;
    let (mut sender, connection) = handshake.map_err(|_| Failure::Broken)?;
    let connection = Driven(tokio::spawn(connection).abort_handle());
    let response = sender.send_request(request).await;
    Ok(Answer {
        response: response.map_err(|_| Failure::Broken)?,
        _connection: connection,
    })
}
