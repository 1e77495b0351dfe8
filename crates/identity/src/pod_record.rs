//! For which Pod a certificate was issued: a private extension of the leaf, so that the record is wherever the certificate is,
//! whatever replica reads it and however often the control plane was restarted.
//!
//! The X509-SVID says the service account only, which all its pods share; `x-forwarded-client-cert` and policies see nothing of
//! this. Not critical: peers ignore it.

use rcgen::CustomExtension;
use x509_parser::prelude::X509Certificate;

use crate::error::Error;

/// 2.25 is for numbers that were drawn (X.667); this one has 62 bits, since rcgen writes and x509-parser reads no larger ones.
/// Only our own leaves are looked at for it.
const OID: [u64; 3] = [2, 25, 0x33c4_5d1e_92a7_4f60];
/// Of a Pod's name (RFC 1123 subdomain) and of a UID, of which API servers make 36.
const MAX_NAME: usize = 253;
const MAX_UID: usize = 64;
/// DER's tag of a UTF8String.
const UTF8_STRING: u8 = 0x0c;

/// A Pod of the namespace that the certificate's SPIFFE id names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodRecord {
    name: String,
    uid: String,
}

impl PodRecord {
    pub fn new(name: &str, uid: &str) -> Result<Self, Error> {
        let fits = |text: &str, longest| {
            (1..=longest).contains(&text.len())
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        };
        if !fits(name, MAX_NAME) || !fits(uid, MAX_UID) {
            return Err(Error::Certificate(format!(
                "no Pod can have name {name:?} and UID {uid:?}"
            )));
        }
        Ok(Self {
            name: name.to_owned(),
            uid: uid.to_owned(),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// A UTF8String `NAME/UID`.
    pub(crate) fn extension(&self) -> CustomExtension {
        let text = format!("{}/{}", self.name, self.uid);
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes();
        let mut der = vec![UTF8_STRING];
        match length {
            [0, short @ ..=0x7f] => der.push(short),
            [0, long] => der.extend([0x81, long]),
            [high, low] => der.extend([0x82, high, low]),
        }
        der.extend(text.as_bytes());
        CustomExtension::from_oid_content(&OID, der)
    }

    /// `None` when the leaf has no such extension.
    pub(crate) fn of(leaf: &X509Certificate<'_>) -> Result<Option<Self>, Error> {
        let ours = |oid: &x509_parser::oid_registry::Oid<'_>| {
            oid.iter().is_some_and(|components| components.eq(OID))
        };
        let mut found = leaf.extensions().iter().filter(|e| ours(&e.oid));
        let extension = match (found.next(), found.next()) {
            (None, _) => return Ok(None),
            (Some(extension), None) => extension,
            (Some(_), Some(_)) => return Err(unreadable()),
        };
        let text = utf8_string(extension.value).ok_or_else(unreadable)?;
        let (name, uid) = text.split_once('/').ok_or_else(unreadable)?;
        Self::new(name, uid).map(Some)
    }
}

fn unreadable() -> Error {
    Error::Certificate("its record of a Pod cannot be read".to_owned())
}

/// The whole of `der` as one UTF8String, lengths in their shortest form.
fn utf8_string(der: &[u8]) -> Option<&str> {
    let (length, text) = match der {
        [UTF8_STRING, short @ ..=0x7f, text @ ..] => (usize::from(*short), text),
        [UTF8_STRING, 0x81, long @ 0x80..=0xff, text @ ..] => (usize::from(*long), text),
        [UTF8_STRING, 0x82, high @ 1..=0xff, low, text @ ..] => {
            (usize::from(u16::from_be_bytes([*high, *low])), text)
        }
        _ => return None,
    };
    std::str::from_utf8(text)
        .ok()
        .filter(|_| text.len() == length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_length_is_read_as_it_was_written() {
        for name in [1, 80, 91, 92, 93, 219, 220, 253] {
            let record = PodRecord::new(&"p".repeat(name), &"u".repeat(36)).unwrap();
            let extension = record.extension();
            let text = utf8_string(extension.content()).unwrap();
            assert_eq!(text, format!("{}/{}", record.name(), record.uid()));
        }
    }

    #[test]
    fn what_is_not_read() {
        for der in [
            &b""[..],
            &[0x0c],
            &[0x0c, 2, b'a'],
            &[0x0c, 1, b'a', b'b'],
            &[0x0c, 0x81, 1, b'a'],
            &[0x0c, 0x82, 0, 1, b'a'],
            &[0x0c, 1, 0xff],
            &[0x04, 1, b'a'],
        ] {
            assert_eq!(utf8_string(der), None, "{der:?}");
        }
        assert!(PodRecord::new("", "u").is_err());
        assert!(PodRecord::new("a/b", "u").is_err());
        assert!(PodRecord::new("a", &"u".repeat(65)).is_err());
    }
}
