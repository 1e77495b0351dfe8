//! Which heads are refused, and what of the others is passed on.

use std::time::Duration;

use http::Request;

use super::*;

fn admitted(request: &mut Request<()>) -> Result<(), Error> {
    let (mut parts, ()) = std::mem::take(request).into_parts();
    let present = Present::of(&parts.headers);
    let result = admit(&mut parts, present);
    *request = Request::from_parts(parts, ());
    result
}

fn request(version: Version, uri: &str, headers: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::builder()
        .version(version)
        .uri(uri)
        .body(())
        .unwrap();
    for (name, value) in headers {
        request
            .headers_mut()
            .append(*name, HeaderValue::from_str(value).unwrap());
    }
    request
}

fn refused(version: Version, uri: &str, headers: &[(&'static str, &str)]) -> bool {
    admitted(&mut request(version, uri, headers)).is_err()
}

#[test]
fn framing_attacks_are_refused() {
    let h1 = Version::HTTP_11;
    assert!(refused(
        h1,
        "/",
        &[
            ("host", "a"),
            ("content-length", "3"),
            ("transfer-encoding", "chunked")
        ]
    ));
    assert!(refused(
        h1,
        "/",
        &[
            ("host", "a"),
            ("content-length", "3"),
            ("content-length", "4")
        ]
    ));
    assert!(refused(h1, "/", &[("host", "a"), ("content-length", "+3")]));
    assert!(refused(
        h1,
        "/",
        &[("host", "a"), ("content-length", "3, 3")]
    ));
    assert!(refused(
        h1,
        "/",
        &[("host", "a"), ("transfer-encoding", "gzip, chunked")]
    ));
    assert!(refused(
        h1,
        "/",
        &[
            ("host", "a"),
            ("transfer-encoding", "chunked"),
            ("transfer-encoding", "chunked")
        ]
    ));
    assert!(refused(
        h1,
        "/",
        &[("host", "a"), ("transfer-encoding", "xchunked")]
    ));
    assert!(refused(
        Version::HTTP_10,
        "/",
        &[("transfer-encoding", "chunked")]
    ));
    assert!(!refused(
        h1,
        "/",
        &[
            ("host", "a"),
            ("content-length", "3"),
            ("content-length", "3")
        ]
    ));
    assert!(!refused(
        h1,
        "/",
        &[("host", "a"), ("transfer-encoding", "Chunked")]
    ));
}

#[test]
fn hosts_must_agree() {
    let h2 = Version::HTTP_2;
    assert!(refused(h2, "http://a/", &[("host", "b")]));
    assert!(!refused(h2, "http://a/", &[("host", "A")]));
    assert!(refused(Version::HTTP_11, "/", &[]));
    assert!(refused(
        Version::HTTP_11,
        "/",
        &[("host", "a"), ("host", "a")]
    ));
    assert!(refused(Version::HTTP_11, "/", &[("host", "a b")]));
    assert!(refused(Version::HTTP_11, "http://a/", &[("host", "b")]));
    assert!(refused(Version::HTTP_11, "/", &[("host", "user@a")]));
    assert!(!refused(Version::HTTP_10, "/", &[]));
    assert!(refused(h2, "http://a/", &[("connection", "close")]));
    assert!(refused(h2, "http://a/", &[("te", "gzip")]));
    assert!(!refused(h2, "http://a/", &[("te", "trailers")]));
}

#[test]
fn authority_moves_into_the_uri() {
    let mut request = request(Version::HTTP_11, "/x?y=1", &[("host", "cart:8080")]);
    admitted(&mut request).unwrap();
    assert_eq!(request.uri(), "http://cart:8080/x?y=1");
    assert!(!request.headers().contains_key("host"));
}

#[test]
fn hop_by_hop_ends_here() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("connection", "close, x-mine"),
        ("x-mine", "1"),
        ("keep-alive", "5"),
        ("te", "gzip, trailers"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("x-tasuki-peer", HeaderValue::from_static("me"));
    strip_hop_by_hop(&mut headers);
    strip_mesh(&mut headers);
    assert_eq!(headers.len(), 1);
    assert_eq!(headers["te"], "trailers");
}

#[test]
fn grpc_timeouts() {
    let parse = |text: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_static(text));
        grpc_timeout(&headers)
    };
    assert_eq!(parse("1S"), Some(Duration::from_secs(1)));
    assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
    assert_eq!(
        parse("99999999H"),
        Some(Duration::from_secs(99_999_999 * 3_600))
    );
    assert_eq!(parse("123456789m"), None);
    assert_eq!(parse("S"), None);
    assert_eq!(parse("-1S"), None);
    assert_eq!(grpc_timeout_value(Duration::from_millis(1_500)), "1500m");
    assert_eq!(grpc_timeout_value(Duration::from_micros(50)), "50u");
}

#[test]
fn grpc_by_content_type() {
    let grpc = |text: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(text));
        is_grpc(&headers)
    };
    assert!(grpc("application/grpc"));
    assert!(grpc("application/grpc+proto"));
    assert!(!grpc("application/grpc-web"));
}

#[test]
fn canonical_hosts() {
    assert_eq!(canonical_host("Cart.Shop.", 80), "cart.shop:80");
    assert_eq!(canonical_host("cart:8080", 80), "cart:8080");
    assert_eq!(canonical_host("[FD00::1]", 80), "[fd00::1]:80");
    assert_eq!(canonical_host("[fd00::1]:81", 80), "[fd00::1]:81");
}

#[test]
fn trailers_say_nothing_that_belongs_into_a_head() {
    let mut trailers = HeaderMap::new();
    for name in [
        "grpc-status",
        "x-checksum",
        "x-tasuki-peer",
        "x-forwarded-client-cert",
        "transfer-encoding",
        "content-length",
        "host",
        "x-named",
    ] {
        trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
    }
    trailers.insert(header::CONNECTION, HeaderValue::from_static("x-named"));
    clean_trailers(&mut trailers);
    let left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
    assert_eq!(left, ["grpc-status", "x-checksum"]);
}
