//! A TLS ClientHello: server name and ALPN, read without taking part (RFC 8446 section 4.1.2, RFC 6066, RFC 7301).
//!
//! It may span TCP segments and TLS records. Nothing is verified: this only decides who terminates the
//! session, and whoever does parses it again.

use std::borrow::Cow;

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    Complete(ClientHello),
    /// The beginning of one.
    More,
    NotTls,
}

/// What a ClientHello asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// SNI, lower case, without a trailing dot.
    pub server_name: Option<String>,
    /// In the client's order.
    pub alpn: Vec<Vec<u8>>,
}

impl ClientHello {
    /// Whether the client offers `protocol`.
    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.alpn.iter().any(|offered| offered == protocol)
    }
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
const ALPN: u16 = 16;

/// Largest payload of one record (RFC 8446 section 5.1).
const LARGEST_RECORD: usize = 1 << 14;

/// Why the message could not be read to its end.
enum Stop {
    More,
    Malformed,
}

/// Reads the first message of a connection.
pub fn client_hello(bytes: &[u8]) -> Hello {
    match message(bytes).and_then(|body| parse(&body).ok_or(Stop::Malformed)) {
        Ok(hello) => Hello::Complete(hello),
        Err(Stop::More) => Hello::More,
        Err(Stop::Malformed) => Hello::NotTls,
    }
}

/// The body of the ClientHello, put together from its records.
fn message(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Stop> {
    let (mut fragment, mut rest) = record(bytes)?;
    let mut joined = Cow::Borrowed(fragment);
    loop {
        match joined.first() {
            Some(&CLIENT_HELLO) => {}
            Some(_) => return Err(Stop::Malformed),
            None => return Err(Stop::More),
        }
        if let Some(&[_, a, b, c]) = joined.get(..4) {
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if length > super::BUFFER {
                return Err(Stop::Malformed);
            }
            if joined.len() >= 4 + length {
                return Ok(match joined {
                    Cow::Borrowed(all) => Cow::Borrowed(&all[4..4 + length]),
                    Cow::Owned(all) => Cow::Owned(all[4..4 + length].to_vec()),
                });
            }
        }
        if rest.is_none() {
            return Err(Stop::More);
        }
        (fragment, rest) = record(rest.unwrap_or_default())?;
        joined.to_mut().extend_from_slice(fragment);
    }
}

/// The payload of the first record, as far as it has arrived, and what follows it if it is whole.
fn record(bytes: &[u8]) -> Result<(&[u8], Option<&[u8]>), Stop> {
    match bytes.first() {
        Some(&HANDSHAKE) => {}
        Some(_) => return Err(Stop::Malformed),
        None => return Err(Stop::More),
    }
    // Every version since SSL 3.0 has the major version 3.
    if bytes.get(1).is_some_and(|major| *major != 3) {
        return Err(Stop::Malformed);
    }
    let Some((header, payload)) = bytes.split_first_chunk::<5>() else {
        return Err(Stop::More);
    };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if length == 0 || length > LARGEST_RECORD {
        return Err(Stop::Malformed);
    }
    Ok(match payload.split_at_checked(length) {
        Some((whole, rest)) => (whole, Some(rest)),
        None => (payload, None),
    })
}

fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?;
    let session = usize::from(reader.u8()?);
    reader.take(session)?;
    reader.vector16()?;
    let compression = usize::from(reader.u8()?);
    reader.take(compression)?;
    let mut hello = ClientHello::default();
    if reader.0.is_empty() {
        // TLS 1.2 without extensions.
        return Some(hello);
    }
    let mut extensions = Reader(reader.vector16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vector16()?;
        match kind {
            SERVER_NAME => hello.server_name = server_name(data)?,
            ALPN => hello.alpn = alpn(data)?,
            _ => {}
        }
    }
    Some(hello)
}

/// The outer `None` is malformed, the inner one a list without a host name.
fn server_name(data: &[u8]) -> Option<Option<String>> {
    let mut list = Reader(Reader(data).vector16()?);
    while !list.0.is_empty() {
        let kind = list.u8()?;
        let name = list.vector16()?;
        if kind == HOST_NAME {
            let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
            let name = name.strip_suffix('.').unwrap_or(&name);
            return Some((!name.is_empty()).then(|| name.to_owned()));
        }
    }
    Some(None)
}

fn alpn(data: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut list = Reader(Reader(data).vector16()?);
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let length = usize::from(list.u8()?);
        protocols.push(list.take(length)?.to_vec());
    }
    Some(protocols)
}

/// Takes lengths and what they announce from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.u16()?);
        self.take(length)
    }
}

#[cfg(test)]
pub(crate) mod tests;
