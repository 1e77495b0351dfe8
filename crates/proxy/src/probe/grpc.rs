//! grpc probes: `grpc.health.v1.Health/Check` in plaintext, as the kubelet asks it.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use prost::Message;

use crate::application::{self, Application, Failure, Place};

/// The one number that is success (`HealthCheckResponse.SERVING`).
const SERVING: i32 = 1;

/// A response is a message of two bytes.
const LARGEST: usize = 4 * 1024;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Whether `service` serves.
pub async fn check(application: &Application, port: u16, service: &str) -> Result<bool, Failure> {
    let place = Place { host: None, port };
    let uri = format!(
        "http://{}/grpc.health.v1.Health/Check",
        application.authority(&place)
    );
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, super::AGENT)
        .body(Full::new(framed(service)))
        .map_err(|_| Failure::Broken)?;
    let stream = application.dial(&place).await?;
    let mut answer = application::send_http2(stream, request).await?;
    let ok = answer.response.status() == StatusCode::OK;
    // An error may come without a body, its status in the headers.
    if !ok || is_refusal(answer.response.headers()) {
        return Ok(false);
    }
    let body = Limited::new(answer.response.body_mut(), LARGEST);
    let body = body.collect().await.map_err(|_| Failure::Broken)?;
    let served = body.trailers().is_some_and(is_success);
    let message = body.to_bytes();
    // One byte that says "not compressed", four of length.
    let status = message
        .get(5..)
        .and_then(|message| CheckResponse::decode(message).ok());
    Ok(served && status.is_some_and(|response| response.status == SERVING))
}

fn framed(service: &str) -> Bytes {
    let message = CheckRequest {
        service: service.to_owned(),
    };
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(message.encoded_len() as u32);
    bytes.put_slice(&message.encode_to_vec());
    bytes.freeze()
}

fn is_success(trailers: &HeaderMap) -> bool {
    trailers
        .get("grpc-status")
        .is_some_and(|status| status == "0")
}

fn is_refusal(headers: &HeaderMap) -> bool {
    headers.contains_key("grpc-status") && !is_success(headers)
}
