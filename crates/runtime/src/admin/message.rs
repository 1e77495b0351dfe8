//! What handlers see and say.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::Full;

use crate::places::Hold;

/// A request whose body has been read, up to the server's limit.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    pub path: String,
    /// Without the `?`; not decoded.
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub(super) client: Client,
}

/// Who asks, over which connection.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub ip: IpAddr,
    pub hold: Hold,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    hang_up: bool,
}

/// No answer: the connection is closed instead.
#[derive(Debug, thiserror::Error)]
#[error("left without an answer")]
pub(super) struct HungUp;

impl Request {
    /// Keeps the connection's place from newcomers. For clients that have proven who they are, and wait long.
    pub fn keep_place(&self) {
        self.client.hold.keep();
    }

    /// The first query parameter of that name, undecoded; `""` for one without a value.
    pub fn query_value(&self, name: &str) -> Option<&str> {
        self.query.as_deref()?.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }
}

impl Response {
    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body)
    }

    /// Pretty-printed, since people read it; a value that cannot be written becomes a 500.
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Self {
        match serde_json::to_vec_pretty(value) {
            Ok(mut body) => {
                body.push(b'\n');
                Self::new(StatusCode::OK, "application/json", body)
            }
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    /// The text format of [`crate::metrics::expose`].
    pub fn metrics(text: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK, crate::metrics::CONTENT_TYPE, text)
    }

    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let headers = HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static(content_type)),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        ]);
        Self {
            status,
            headers,
            body: body.into(),
            hang_up: false,
        }
    }

    /// No answer at all: the client sees its connection end. For clients to whom any answer means success.
    pub fn hang_up() -> Self {
        Self {
            hang_up: true,
            ..Self::text(StatusCode::SERVICE_UNAVAILABLE, Bytes::new())
        }
    }

    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(super) fn send(self) -> Result<http::Response<Full<Bytes>>, HungUp> {
        if self.hang_up {
            return Err(HungUp);
        }
        Ok(self.into_http())
    }

    pub(super) fn into_http(self) -> http::Response<Full<Bytes>> {
        let mut response = http::Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}
