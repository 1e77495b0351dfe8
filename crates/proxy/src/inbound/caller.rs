//! What the requests of one connection say of their caller. The same peer says the same in each of them, so it is made once:
//! the look-up of who it is takes a lock, and the certificate's header is a quarter of a kilobyte of text.

use std::cell::RefCell;
use std::sync::Arc;

use http::header::HeaderValue;
use tasuki_identity::PeerCertificate;

use crate::connection::Connection;
use crate::identity::Identity;
use crate::observe::Party;
use crate::worker::Worker;

/// Made of the connection's identity and what has to be the same for it to be used again. Boxed: connections that wait have none.
#[derive(Default)]
pub struct Caller {
    party: RefCell<Option<Box<Labelled>>>,
    certificate: RefCell<Option<Box<Certified>>>,
}

/// A party by the labels it showed.
type Labelled = (Option<HeaderValue>, Arc<Party>);
/// A header by the identity that it was shown to.
type Certified = (Arc<Identity>, HeaderValue);

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller").finish_non_exhaustive()
    }
}

impl Caller {
    /// Who asks, with these labels of its own (`x-tasuki-peer`).
    pub fn party(
        &self,
        worker: &Worker,
        conn: &Connection,
        labels: Option<&HeaderValue>,
    ) -> Arc<Party> {
        if let Some(known) = &*self.party.borrow()
            && known.0.as_ref() == labels
        {
            return known.1.clone();
        }
        let peers = &worker.metrics.peers;
        let party = peers.intern(conn.identity(), labels.map(HeaderValue::as_bytes));
        *self.party.borrow_mut() = Some(Box::new((labels.cloned(), party.clone())));
        party
    }

    /// `x-forwarded-client-cert` from `peer` to `own`.
    pub fn certificate(&self, own: &Arc<Identity>, peer: &PeerCertificate) -> Option<HeaderValue> {
        if let Some(known) = &*self.certificate.borrow()
            && Arc::ptr_eq(&known.0, own)
        {
            return Some(known.1.clone());
        }
        let value = HeaderValue::try_from(client_cert(own, peer)).ok()?;
        *self.certificate.borrow_mut() = Some(Box::new((own.clone(), value.clone())));
        Some(value)
    }
}

/// Exactly one element, as Envoy writes it with `SANITIZE_SET`.
fn client_cert(own: &Identity, peer: &PeerCertificate) -> String {
    format!(
        "By={};Hash={};Subject=\"{}\";URI={}",
        own.id(),
        peer.sha256_hex,
        quoted(&peer.subject),
        peer.id
    )
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_quoted() {
        assert_eq!(quoted(r#"CN=a"b\c"#), r#"CN=a\"b\\c"#);
    }
}
