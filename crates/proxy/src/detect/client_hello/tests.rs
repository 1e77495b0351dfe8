//! ClientHellos of a real client: whole, cut, spread over records, damaged.

use proptest::prelude::*;

use super::*;

/// A real client's ClientHello, made by rustls.
pub(crate) fn hello(server_name: Option<&str>, alpn: &[&str]) -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    let name = match server_name {
        Some(name) => name.to_owned().try_into().unwrap(),
        None => {
            rustls_pki_types::ServerName::IpAddress(std::net::IpAddr::from([127, 0, 0, 1]).into())
        }
    };
    let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same message, in records of `size` bytes.
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in hello[5..].chunks(size) {
        bytes.extend([22, 3, 1]);
        bytes.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
        bytes.extend(part);
    }
    bytes
}

#[test]
fn reads_name_and_alpn() {
    let Hello::Complete(found) = client_hello(&hello(Some("Cart.Shop.example"), &["tasuki-h2"]))
    else {
        panic!("incomplete")
    };
    assert_eq!(found.server_name.as_deref(), Some("cart.shop.example"));
    assert!(found.offers(b"tasuki-h2"));
    assert!(!found.offers(b"h2"));
    let Hello::Complete(bare) = client_hello(&hello(None, &[])) else {
        panic!("incomplete")
    };
    assert_eq!(bare, ClientHello::default());
}

#[test]
fn every_beginning_needs_more() {
    let whole = hello(Some("cart.shop"), &["h2"]);
    for cut in 0..whole.len() {
        assert_eq!(client_hello(&whole[..cut]), Hello::More, "{cut}");
    }
    let mut longer = whole.clone();
    longer.extend(b"what follows");
    assert_eq!(client_hello(&longer), client_hello(&whole));
}

#[test]
fn it_may_span_records() {
    let whole = hello(Some("cart.shop"), &["h2"]);
    for size in [1, 7, 100] {
        let split = in_records(&whole, size);
        assert_eq!(
            client_hello(&split),
            client_hello(&whole),
            "records of {size}"
        );
        assert_eq!(client_hello(&split[..split.len() - 1]), Hello::More);
    }
}

#[test]
fn other_bytes_are_not_tls() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"\x16\x02\x00\x00\x05",
        b"\x15\x03\x01\x00\x02",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
    ] {
        assert_eq!(client_hello(bytes), Hello::NotTls, "{bytes:?}");
    }
}

proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        client_hello(&bytes);
    }

    #[test]
    fn a_damaged_hello_never_panics(at in 0..400_usize, byte in any::<u8>()) {
        let mut bytes = hello(Some("cart.shop"), &["h2", "http/1.1"]);
        if let Some(damaged) = bytes.get_mut(at) {
            *damaged = byte;
        }
        client_hello(&bytes);
    }
}
