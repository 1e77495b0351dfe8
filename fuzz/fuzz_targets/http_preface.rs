//! The first bytes of a connection taken for HTTP: whatever they are, a decision once made stays with more bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tasuki_proxy::detect::{Preface, http_preface};

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let whole = http_preface(bytes);
    let early = http_preface(&bytes[..usize::from(cut).min(bytes.len())]);
    assert!(
        early == Preface::More || early == whole,
        "{early:?} became {whole:?}"
    );
});
