//! Which of the header lines that the proxy looks for a request has.
//!
//! One walk over the lines. A look-up hashes the name it looks for, and a dozen of them, nearly all in vain, cost more than
//! everything else that is decided about a small request.

use http::header::{self, HeaderMap};

use super::{CLIENT_CERT, MESH_PREFIX, REQUEST_ID, TRACEPARENT};

/// A set of [`Line`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present(u16);

/// A header line that some stage asks for.
#[derive(Clone, Copy, Debug)]
#[repr(u16)]
pub enum Line {
    Connection = 1 << 0,
    ContentLength = 1 << 1,
    ContentType = 1 << 2,
    Host = 1 << 3,
    Te = 1 << 4,
    TransferEncoding = 1 << 5,
    Upgrade = 1 << 6,
    RequestId = 1 << 7,
    Traceparent = 1 << 8,
    ClientCert = 1 << 9,
    /// Any of `x-tasuki-*`.
    Mesh = 1 << 10,
}

impl Present {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for name in headers.keys() {
            let line = if *name == header::CONTENT_TYPE {
                Line::ContentType
            } else if *name == header::CONTENT_LENGTH {
                Line::ContentLength
            } else if *name == header::TE {
                Line::Te
            } else if *name == header::HOST {
                Line::Host
            } else if *name == header::CONNECTION {
                Line::Connection
            } else if *name == header::TRANSFER_ENCODING {
                Line::TransferEncoding
            } else if *name == header::UPGRADE {
                Line::Upgrade
            } else if *name == REQUEST_ID {
                Line::RequestId
            } else if *name == TRACEPARENT {
                Line::Traceparent
            } else if *name == CLIENT_CERT {
                Line::ClientCert
            } else if name.as_str().starts_with(MESH_PREFIX) {
                Line::Mesh
            } else {
                continue;
            };
            found.0 |= line as u16;
        }
        found
    }

    pub fn has(self, line: Line) -> bool {
        self.0 & line as u16 != 0
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn each_line_is_found_and_no_other() {
        let lines = [
            ("connection", Line::Connection),
            ("content-length", Line::ContentLength),
            ("content-type", Line::ContentType),
            ("host", Line::Host),
            ("te", Line::Te),
            ("transfer-encoding", Line::TransferEncoding),
            ("upgrade", Line::Upgrade),
            ("x-request-id", Line::RequestId),
            ("traceparent", Line::Traceparent),
            ("x-forwarded-client-cert", Line::ClientCert),
            ("x-tasuki-whatever", Line::Mesh),
        ];
        for (name, expected) in lines {
            let mut headers = HeaderMap::new();
            headers.insert("accept", HeaderValue::from_static("*/*"));
            headers.insert("x-tasuk", HeaderValue::from_static("no"));
            headers.insert(name, HeaderValue::from_static("1"));
            let present = Present::of(&headers);
            for (other, line) in lines {
                assert_eq!(present.has(line), other == name, "{name}: {other}");
            }
            assert!(present.has(expected));
        }
        assert_eq!(Present::of(&HeaderMap::new()), Present::default());
    }
}
