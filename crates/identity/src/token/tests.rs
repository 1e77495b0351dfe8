//! Join tokens: what is accepted, and what is refused.

use tempfile::TempDir;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn refused(verifier: &Verifier, token: &str) -> bool {
    matches!(
        verifier.verify(token, SystemTime::now()),
        Err(Error::Token(_))
    )
}

/// A token with other header or claims, signed with the right key.
fn forge(dir: &TempDir, algorithm: Algorithm, change: impl FnOnce(&mut Wire)) -> String {
    let key = load_or_create(dir.path()).unwrap();
    let now = unix(SystemTime::now());
    let mut wire = Wire {
        iss: ISSUER.to_owned(),
        sub: "shop/cart".to_owned(),
        aud: vec![AUDIENCE.to_owned()],
        iat: now,
        nbf: now,
        exp: now + 60,
        jti: String::new(),
    };
    change(&mut wire);
    let key = match algorithm {
        // The classic confusion: the public key as an HMAC secret.
        Algorithm::HS256 => EncodingKey::from_secret(key.public_key_pem().as_bytes()),
        _ => EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).unwrap(),
    };
    jsonwebtoken::encode(&Header::new(algorithm), &wire, &key).unwrap()
}

#[test]
fn says_who_it_is_for() {
    let dir = TempDir::new().unwrap();
    let now = SystemTime::now();
    let token = issue(dir.path(), "shop", "cart", HOUR, now).unwrap();
    let claims = verify(dir.path(), &token, now).unwrap();
    assert_eq!(
        (claims.namespace.as_str(), claims.service_account.as_str()),
        ("shop", "cart")
    );
    let domain = TrustDomain::new("cluster.local").unwrap();
    assert_eq!(
        claims.spiffe_id(&domain).unwrap().to_string(),
        "spiffe://cluster.local/ns/shop/sa/cart"
    );
}

#[test]
fn ends_when_it_says() {
    let dir = TempDir::new().unwrap();
    let now = SystemTime::now();
    let token = issue(dir.path(), "shop", "cart", HOUR, now).unwrap();
    let verifier = Verifier::load(dir.path()).unwrap();
    assert!(
        verifier
            .verify(&token, now + HOUR - Duration::from_secs(2))
            .is_ok()
    );
    assert!(verifier.verify(&token, now + HOUR).is_err());
    assert!(
        verifier
            .verify(&token, now - Duration::from_secs(20))
            .is_ok(),
        "clock skew"
    );
    assert!(verifier.verify(&token, now - HOUR).is_err());
    for ttl in [Duration::ZERO, MAX_TTL + HOUR] {
        assert!(issue(dir.path(), "shop", "cart", ttl, now).is_err());
    }
}

#[test]
fn tampering_is_seen() {
    let dir = TempDir::new().unwrap();
    let verifier = Verifier::load(dir.path()).unwrap();
    let token = issue(dir.path(), "shop", "cart", HOUR, SystemTime::now()).unwrap();
    let [header, claims, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();

    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    let other = URL_SAFE_NO_PAD.encode(text.replace("shop/cart", "shop/admin"));
    assert!(refused(&verifier, &format!("{header}.{other}.{signature}")));

    for algorithm in ["none", "None", "HS256", "ES384"] {
        let none = URL_SAFE_NO_PAD.encode(format!(r#"{{"typ":"JWT","alg":"{algorithm}"}}"#));
        assert!(refused(&verifier, &format!("{none}.{claims}.")));
        assert!(refused(&verifier, &format!("{none}.{claims}.{signature}")));
    }
    for text in ["", ".", "..", "a.b.c", &header[1..], &"x".repeat(10_000)] {
        assert!(refused(&verifier, text));
    }

    let elsewhere = TempDir::new().unwrap();
    let foreign = issue(elsewhere.path(), "shop", "cart", HOUR, SystemTime::now()).unwrap();
    assert!(refused(&verifier, &foreign));
}

#[test]
fn each_claim_counts() {
    let dir = TempDir::new().unwrap();
    let verifier = Verifier::load(dir.path()).unwrap();
    let good = forge(&dir, Algorithm::ES256, |_| ());
    assert!(verifier.verify(&good, SystemTime::now()).is_ok());
    for change in [
        (|w: &mut Wire| w.aud = vec!["kubernetes".to_owned()]) as fn(&mut Wire),
        |w| w.aud.clear(),
        |w| w.iss = "else".to_owned(),
        |w| w.sub = "shop".to_owned(),
        |w| w.sub = "shop/sa/cart".to_owned(),
        |w| w.sub = "../cart".to_owned(),
        |w| w.exp = w.nbf + 365 * 86_400,
        |w| w.exp = 0,
        |w| w.nbf += 3600,
    ] {
        assert!(refused(&verifier, &forge(&dir, Algorithm::ES256, change)));
    }
    assert!(refused(&verifier, &forge(&dir, Algorithm::HS256, |_| ())));
}

#[test]
fn whoever_comes_first_makes_the_key() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let keys: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| load_or_create(dir.path()).unwrap().public_key_pem()))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(keys.iter().all(|k| *k == keys[0]));
    let mode = std::fs::metadata(key_path(dir.path()))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        std::fs::read_dir(dir.path().join("token")).unwrap().count(),
        1
    );
}

#[test]
fn a_glance_keeps_nonsense_from_whoever_verifies() {
    let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
    let token = |json: &str| format!("x.{}.y", URL_SAFE_NO_PAD.encode(json));
    let look = |token: &str| glance(token, "tasuki-ca", now);
    assert!(look(&token(r#"{"aud":["a","tasuki-ca"],"exp":1000001}"#)).is_ok());
    assert!(look(&token(r#"{"aud":"tasuki-ca","exp":1000001}"#)).is_ok());
    assert!(look(&token(r#"{"aud":"tasuki-ca","exp":999971}"#)).is_ok());
    for bad in [
        "",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        &token(r#"{"aud":["other"],"exp":1000001}"#),
        &token(r#"{"exp":1000001}"#),
        &token(r#"{"aud":["tasuki-ca"]}"#),
        &token(r#"{"aud":["tasuki-ca"],"exp":999970}"#),
        &token(r#"{"aud":7,"exp":1000001}"#),
        &format!(
            "{}{}",
            token(r#"{"aud":"tasuki-ca","exp":1000001}"#),
            "y".repeat(20_000)
        ),
    ] {
        assert!(look(bad).is_err(), "{bad}");
    }
}
