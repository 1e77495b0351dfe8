//! Who is asking: tokens, certificates, and neither.

use std::time::Duration;

use tempfile::TempDir;
use tonic::Code;

use super::*;
use crate::ads::ConnectionFacts;

fn id(account: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{account}")).unwrap()
}

fn peer(account: &str, not_after: SystemTime) -> PeerCertificate {
    PeerCertificate {
        id: id(account),
        subject: String::new(),
        sha256_hex: String::new(),
        not_after,
        pod: None,
    }
}

struct Fixture {
    dir: TempDir,
    authenticator: StateDirAuthenticator,
}

impl Fixture {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let domain = TrustDomain::new("cluster.local").unwrap();
        let authenticator = StateDirAuthenticator::new(dir.path(), domain).unwrap();
        Self { dir, authenticator }
    }

    fn token(&self, account: &str, age: Duration) -> String {
        let issued = SystemTime::now() - age;
        token::issue(
            self.dir.path(),
            "shop",
            account,
            Duration::from_secs(60),
            issued,
        )
        .unwrap()
    }

    fn decide(
        &self,
        tls: bool,
        bearer: Option<String>,
        peer: Option<PeerCertificate>,
    ) -> Result<Option<SpiffeId>, Code> {
        let connection = ConnectionFacts {
            tls,
            peer,
            ..ConnectionFacts::default()
        };
        self.authenticator
            .decide(&Presented { bearer, connection })
            .map_err(|status| status.code())
    }
}

#[test]
fn either_credential_is_enough() {
    let f = Fixture::new();
    let soon = SystemTime::now() + Duration::from_secs(60);
    let past = SystemTime::now() - Duration::from_secs(1);
    let fresh = || Some(f.token("cart", Duration::ZERO));
    let stale = || Some(f.token("cart", Duration::from_secs(61)));
    let cart = Ok(Some(id("cart")));
    assert_eq!(f.decide(false, fresh(), None), cart);
    assert_eq!(f.decide(true, fresh(), None), cart);
    assert_eq!(f.decide(true, None, Some(peer("cart", soon))), cart);
    assert_eq!(f.decide(true, stale(), Some(peer("cart", soon))), cart);
    assert_eq!(f.decide(true, fresh(), Some(peer("cart", past))), cart);
    assert_eq!(
        f.decide(true, stale(), Some(peer("cart", past))),
        Err(Code::Unauthenticated)
    );
    assert_eq!(
        f.decide(true, None, Some(peer("cart", past))),
        Err(Code::Unauthenticated)
    );
    assert_eq!(
        f.decide(true, fresh(), Some(peer("pay", soon))),
        Err(Code::Unauthenticated)
    );
}

#[test]
fn nobody_is_allowed_only_in_plaintext_and_a_bad_token_nowhere() {
    let f = Fixture::new();
    assert_eq!(f.decide(false, None, None), Ok(None));
    assert_eq!(f.decide(true, None, None), Err(Code::Unauthenticated));
    for tls in [false, true] {
        for bad in ["", "x", "a.b.c"] {
            assert_eq!(
                f.decide(tls, Some(bad.to_owned()), None),
                Err(Code::Unauthenticated)
            );
        }
    }
}
