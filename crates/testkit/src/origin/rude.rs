//! Origins that break off at the worst moment: after the request was read and counted as executed,
//! or, for refusals, provably before.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::Controls;

/// When and how it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// HTTP/1.1: reads a whole request, counts it, resets the connection.
    ResetAfterRequest,
    /// HTTP/2: executes a request, then RST_STREAM with INTERNAL_ERROR.
    ResetStream,
    /// HTTP/2: refuses every second stream with REFUSED_STREAM, unexecuted; answers the rest.
    RefuseEverySecond,
    /// HTTP/2: refuses three of four streams, unexecuted: more than one hop's retries outlast.
    RefuseThreeOfFour,
    /// HTTP/2: answers one request, then GOAWAY and no more.
    GoAway,
    /// HTTP/2: executes a request, then GOAWAY with its stream as the last, and closes without an answer.
    GoAwayUnanswered,
    /// HTTP/1.1: counts the request and never answers.
    Silent,
    /// HTTP/2: the same.
    SilentStream,
}

/// Serves one connection.
pub async fn serve(stream: TcpStream, controls: Arc<Controls>, manner: Manner) {
    match manner {
        Manner::ResetAfterRequest | Manner::Silent => http1(stream, controls, manner).await,
        // The peer may be gone at any point; there is nobody to tell.
        Manner::ResetStream
        | Manner::RefuseEverySecond
        | Manner::RefuseThreeOfFour
        | Manner::GoAway
        | Manner::GoAwayUnanswered
        | Manner::SilentStream => drop(http2(stream, controls, manner).await),
    }
}

async fn http1(mut stream: TcpStream, controls: Arc<Controls>, manner: Manner) {
    let Some(head) = read_request(&mut stream).await else {
        return;
    };
    controls.requests.fetch_add(1, Ordering::Relaxed);
    controls.executed(&head);
    if manner == Manner::Silent {
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    let socket = socket2::SockRef::from(&stream);
    // Zero linger makes the close a reset.
    let _ = socket.set_linger(Some(Duration::ZERO));
}

/// Reads a request with `content-length` (or none) to its end and returns its headers.
async fn read_request(stream: &mut TcpStream) -> Option<http::HeaderMap> {
    let mut buffer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&buffer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let headers = parse_headers(head);
            let expected = headers
                .get("content-length")
                .and_then(|v| v.to_str().ok())
                .and_then(|v| v.parse().ok())
                .unwrap_or(0);
            let chunked = headers.contains_key("transfer-encoding");
            if (chunked && body.ends_with("0\r\n\r\n")) || (!chunked && body.len() >= expected) {
                return Some(headers);
            }
        }
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => buffer.extend_from_slice(&chunk[..n]),
        }
    }
}

fn parse_headers(head: &str) -> http::HeaderMap {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let pairs = lines.filter_map(|(name, value)| {
        Some((
            http::HeaderName::try_from(name.trim()).ok()?,
            http::HeaderValue::try_from(value.trim()).ok()?,
        ))
    });
    pairs.collect()
}

async fn http2(
    stream: TcpStream,
    controls: Arc<Controls>,
    manner: Manner,
) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    let mut count = 0u64;
    let mut unanswered = Vec::new();
    while let Some(next) = connection.accept().await {
        let (request, mut respond) = next?;
        count += 1;
        let refused = match manner {
            Manner::RefuseEverySecond => count % 2 == 1,
            Manner::RefuseThreeOfFour => !count.is_multiple_of(4),
            _ => false,
        };
        if refused {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            continue;
        }
        controls.requests.fetch_add(1, Ordering::Relaxed);
        controls.executed(request.headers());
        if manner == Manner::ResetStream {
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
            continue;
        }
        if manner == Manner::GoAwayUnanswered {
            connection.abrupt_shutdown(h2::Reason::NO_ERROR);
            unanswered.push(respond);
            continue;
        }
        if manner == Manner::SilentStream {
            unanswered.push(respond);
            continue;
        }
        let response = http::Response::builder()
            .status(200)
            .header("x-backend", "rude")
            .body(());
        if let Ok(response) = response {
            respond
                .send_response(response, false)?
                .send_data(Bytes::from_static(b"done"), true)?;
        }
        if manner == Manner::GoAway {
            connection.graceful_shutdown();
        }
    }
    Ok(())
}
