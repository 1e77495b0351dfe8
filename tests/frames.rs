//! HTTP/2 frames written by hand, for peers that break the rules.

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
/// A type that nobody knows.
pub const UNKNOWN: u8 = 0x20;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame (RFC 9113 section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A header field without indexing, neither part compressed (RFC 7541 section 6.2.2).
pub fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut field = vec![0, name.len() as u8];
    field.extend_from_slice(name);
    length(&mut field, value.len());
    field.extend_from_slice(value);
    field
}

/// `:path` with this value (RFC 7541 section 6.2.2, index 4).
pub fn literal_path(path: &[u8]) -> Vec<u8> {
    let mut field = vec![4];
    length(&mut field, path.len());
    field.extend_from_slice(path);
    field
}

/// An integer with a prefix of seven bits (RFC 7541 section 5.1).
fn length(field: &mut Vec<u8>, length: usize) {
    if length < 127 {
        return field.push(length as u8);
    }
    field.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        field.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    field.push(rest as u8);
}
