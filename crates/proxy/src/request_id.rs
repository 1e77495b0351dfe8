//! `x-request-id`: made where a request enters the mesh, kept from there on (as Istio's proxies do).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use crate::balance;
use crate::headers::REQUEST_ID;
use crate::headers::present::{Line, Present};

/// Gives the request an id if its client did not.
pub fn ensure(headers: &mut HeaderMap, present: Present) {
    if present.has(Line::RequestId) {
        return;
    }
    if let Ok(mut id) = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&fresh())) {
        // No secret, but never seen again: "never indexed" (RFC 7541 section 6.2.3) keeps it out of the HPACK tables, where it
        // would push out the lines that do repeat.
        id.set_sensitive(true);
        headers.insert(REQUEST_ID, id);
    }
}

/// A UUID version 4 (RFC 9562) as text. It names a request and protects nothing, so the balancer's numbers are good enough.
fn fresh() -> [u8; 36] {
    // `random` yields 63 bits.
    let bits = u128::from(balance::random()) << 65
        | u128::from(balance::random()) << 2
        | u128::from(balance::random()) & 3;
    let mut bytes = bits.to_be_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    text(&bytes)
}

fn text(bytes: &[u8; 16]) -> [u8; 36] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 0x0f)];
        at += 2;
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_have_the_form_of_a_uuid_and_differ() {
        let ids: HashSet<_> = (0..1_000).map(|_| fresh()).collect();
        assert_eq!(ids.len(), 1_000);
        for id in ids {
            let id = std::str::from_utf8(&id).unwrap();
            let groups: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(groups, [8, 4, 4, 4, 12], "{id}");
            assert!(
                id.chars()
                    .all(|c| c == '-' || c.is_ascii_hexdigit() && !c.is_uppercase())
            );
            assert_eq!(&id[14..15], "4", "{id}");
            assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
        }
    }

    #[test]
    fn text_is_the_bytes_in_order() {
        let bytes: [u8; 16] = std::array::from_fn(|index| index as u8 * 0x11);
        assert_eq!(
            std::str::from_utf8(&text(&bytes)).unwrap(),
            "00112233-4455-6677-8899-aabbccddeeff"
        );
    }

    fn ensure_in(headers: &mut HeaderMap) {
        let present = Present::of(headers);
        ensure(headers, present);
    }

    #[test]
    fn a_clients_own_id_is_kept() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("mine"));
        ensure_in(&mut headers);
        assert_eq!(headers[REQUEST_ID], "mine");
        headers.clear();
        ensure_in(&mut headers);
        assert_eq!(headers[REQUEST_ID].len(), 36);
    }
}
