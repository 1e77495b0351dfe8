//! The first bytes of a connection taken for TLS: whatever they are, a decision once made stays with more bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tasuki_proxy::detect::{Hello, client_hello};

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let whole = client_hello(bytes);
    let early = client_hello(&bytes[..usize::from(cut).min(bytes.len())]);
    assert!(
        early == Hello::More || early == whole,
        "{early:?} became {whole:?}"
    );
});
