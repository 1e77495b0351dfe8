//! Answers that the proxy makes itself. Each says why in flag and reason; gRPC clients get a trailers-only response.

use http::header::{self, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use crate::body::Body;
use crate::error::Error;
use crate::headers::{GRPC_MESSAGE, GRPC_STATUS, REASON};
use crate::observe::RequestRecord;
use crate::route::redirect::Redirect;

/// The answer to a request that failed, noted in its record.
pub fn failure(
    error: &Error,
    is_grpc: bool,
    reason_header: bool,
    record: &mut RequestRecord,
) -> Response<Body> {
    let flag = error.flag();
    if flag != crate::error::Flag::None {
        record.flag(flag.as_str());
    }
    record.reason = Some(error.reason());
    let mut response = if is_grpc {
        grpc(error, record)
    } else {
        plain(error)
    };
    if reason_header && let Ok(value) = HeaderValue::from_str(&error.reason()) {
        response.headers_mut().insert(REASON, value);
    }
    response
}

fn plain(error: &Error) -> Response<Body> {
    let mut response = text(error.status(), error.message().into_owned());
    if matches!(error, Error::Overflow(_)) {
        // Envoy's way to tell a caller's retry logic that trying again makes it worse.
        response
            .headers_mut()
            .insert("x-envoy-overloaded", HeaderValue::from_static("true"));
    }
    response
}

fn grpc(error: &Error, record: &mut RequestRecord) -> Response<Body> {
    let status = error.grpc_status() as u16;
    record.grpc_status = Some(status);
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    set_grpc_status(headers, status, &error.message());
    response
}

/// `grpc-status` and `grpc-message`, percent-encoded as gRPC over HTTP/2 says.
fn set_grpc_status(headers: &mut HeaderMap, status: u16, message: &str) {
    headers.insert(GRPC_STATUS, HeaderValue::from(status));
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    if let Ok(value) = HeaderValue::from_str(&encoded) {
        headers.insert(GRPC_MESSAGE, value);
    }
}

fn text(status: StatusCode, message: impl Into<bytes::Bytes>) -> Response<Body> {
    let message = message.into();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(message.len()));
    if !message.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    *response.body_mut() = Body::full(message);
    response
}

/// A route's `directResponse`.
pub fn direct(status: StatusCode, body: &bytes::Bytes) -> Response<Body> {
    text(status, body.clone())
}

/// A route's `redirect`.
pub fn redirect(
    redirect: &Redirect,
    uri: &http::Uri,
    scheme: &str,
    authority: &str,
) -> Result<Response<Body>, Error> {
    let location = redirect.location(uri, scheme, authority);
    let location = HeaderValue::from_str(&location).map_err(|_| Error::BadRequest("redirect"))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = redirect.status;
    response.headers_mut().insert(header::LOCATION, location);
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    Ok(response)
}
