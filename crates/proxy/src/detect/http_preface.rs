//! The first bytes of HTTP/1 (RFC 9112 section 3) and HTTP/2 (RFC 9113 section 3.4).

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preface {
    Http1,
    Http2,
    Other,
    /// Not decided yet.
    More,
}

const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const VERSION: &[u8] = b"HTTP/1.";

/// Longest method; the registry's longest has 17 bytes.
const LONGEST_METHOD: usize = 32;

/// Tells HTTP apart by its whole request line, because other protocols' clients begin with a word and a space
/// too (memcached's `get key`, Redis' `PING`).
pub fn http_preface(bytes: &[u8]) -> Preface {
    if HTTP2.starts_with(&bytes[..bytes.len().min(HTTP2.len())]) {
        return if bytes.len() >= HTTP2.len() {
            Preface::Http2
        } else {
            Preface::More
        };
    }
    request_line(without_empty_lines(bytes)).unwrap_or(Preface::More)
}

/// A server ignores empty lines before the request line (RFC 9112 section 2.2).
fn without_empty_lines(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes
        .strip_prefix(b"\r\n")
        .or_else(|| bytes.strip_prefix(b"\n"))
    {
        bytes = rest;
    }
    bytes
}

/// `METHOD SP target SP HTTP/1.x`; `None` when the line may still become one.
fn request_line(line: &[u8]) -> Option<Preface> {
    if line.is_empty() || line == b"\r" {
        return None;
    }
    let method = line.iter().take_while(|b| is_token(**b)).count();
    if method == 0 || method > LONGEST_METHOD {
        return Some(Preface::Other);
    }
    match line.get(method) {
        None => return None,
        Some(b' ') => {}
        Some(_) => return Some(Preface::Other),
    }
    let rest = &line[method + 1..];
    let target = rest
        .iter()
        .take_while(|b| **b > b' ' && **b != 0x7f)
        .count();
    match rest.get(target) {
        None => return None,
        Some(b' ') if target > 0 => {}
        Some(_) => return Some(Preface::Other),
    }
    let version = &rest[target + 1..];
    let known = version.len().min(VERSION.len());
    if version[..known] != VERSION[..known] {
        return Some(Preface::Other);
    }
    (known == VERSION.len()).then_some(Preface::Http1)
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_http_from_others() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Preface::Http1),
            (b"POST http://x/ HTTP/1.0\r\n", Preface::Http1),
            (b"\r\n\nGET / HTTP/1.1\r\n", Preface::Http1),
            (b"OPTIONS * HTTP/1.1", Preface::Http1),
            (b"CONNECT a:1 HTTP/1.1", Preface::Http1),
            (b"M-SEARCH * HTTP/1.1", Preface::Http1),
            (b"PRI * HTTP/1.1\r\n", Preface::Http1),
            (HTTP2, Preface::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Preface::Other),
            (b"get key\r\n", Preface::Other),
            (b"PING\r\n", Preface::Other),
            (b"SET a b\r\n", Preface::Other),
            (b"*1\r\n$4\r\n", Preface::Other),
            (b"GET  / HTTP/1.1", Preface::Other),
            (b"GET / FTP/1.1", Preface::Other),
            (b"\x16\x03\x01", Preface::Other),
            (b" GET / HTTP/1.1", Preface::Other),
            (b"GET /\0 HTTP/1.1", Preface::Other),
            (&[b'A'; 33], Preface::Other),
            (b"", Preface::More),
            (b"P", Preface::More),
            (b"GET", Preface::More),
            (b"GET /", Preface::More),
            (b"GET / HTTP/1", Preface::More),
            (b"\r", Preface::More),
        ] {
            assert_eq!(
                http_preface(bytes),
                expected,
                "{}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn a_decision_never_changes_with_more_bytes() {
        for whole in [
            &b"GET /a?b=c HTTP/1.1\r\nhost: x\r\n\r\n"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04",
            b"get key\r\nset\r\n",
        ] {
            let last = http_preface(whole);
            for cut in 0..whole.len() {
                let now = http_preface(&whole[..cut]);
                assert!(now == Preface::More || now == last, "{cut}");
            }
        }
    }
}
