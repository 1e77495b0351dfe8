//! Signed join tokens: how a proxy says who it is before it has a certificate.
//!
//! JWTs, ES256 only, with a key that lives in the state dir and is made by whoever comes first: the control plane
//! or `tasuki token`. On Kubernetes the API server's own service account tokens take their place.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::KeyPair;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::files;
use crate::id::{SpiffeId, TrustDomain};
use crate::peer::hex;

/// Who may accept a token; a token for anything else is refused.
pub const AUDIENCE: &str = "tasuki-ca";
/// Longest life of a token. A token cannot be revoked, so it may not live for ever.
pub const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

const ISSUER: &str = "tasuki";
/// Longest text that is looked at: ours have about 350 bytes.
const MAX_LENGTH: usize = 4096;
/// The issuer's clock may be this much ahead of the verifier's. Expiry is not stretched.
const CLOCK_SKEW: Duration = Duration::from_secs(30);

/// What a verified token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub namespace: String,
    pub service_account: String,
    pub expires: SystemTime,
}

/// Checks tokens; holds the public key.
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

/// The claims on the wire (RFC 7519 section 4.1).
#[derive(Serialize, Deserialize)]
struct Wire {
    iss: String,
    /// `NAMESPACE/SERVICE-ACCOUNT`.
    sub: String,
    aud: Vec<String>,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: String,
}

impl Claims {
    pub fn spiffe_id(&self, trust_domain: &TrustDomain) -> Result<SpiffeId, Error> {
        Ok(SpiffeId::new(
            trust_domain,
            &self.namespace,
            &self.service_account,
        )?)
    }
}

/// Longest token of a Kubernetes API server that is looked at: they have about 1,200 bytes, more with long names.
const MAX_FOREIGN_LENGTH: usize = 16 * 1024;

/// What is read of a token that somebody else has to verify.
#[derive(Deserialize)]
struct Glance {
    #[serde(default)]
    aud: Audience,
    exp: Option<u64>,
}

/// RFC 7519 section 4.1.3: one or many.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Audience::Many(Vec::new())
    }
}

/// Refuses what cannot be a good token for `audience`, before anybody is asked about it. Proves nothing: the signature is not
/// looked at.
pub fn glance(token: &str, audience: &str, now: SystemTime) -> Result<(), Error> {
    let refuse = |reason: &str| Err(Error::Token(reason.to_owned()));
    if token.len() > MAX_FOREIGN_LENGTH {
        return refuse("too long");
    }
    let parts: Vec<&str> = token.split('.').collect();
    let [_, payload, _] = parts.as_slice() else {
        return refuse("not a JWT");
    };
    let Ok(payload) = URL_SAFE_NO_PAD.decode(payload) else {
        return refuse("not a JWT");
    };
    let Ok(Glance { aud, exp }) = serde_json::from_slice(&payload) else {
        return refuse("not a JWT");
    };
    let ours = match &aud {
        Audience::One(one) => one == audience,
        Audience::Many(many) => many.iter().any(|one| one == audience),
    };
    if !ours {
        return refuse(&format!("not for audience {audience}"));
    }
    // Our clock may be ahead of the API server's, which decides.
    if exp.is_none_or(|exp| exp.saturating_add(CLOCK_SKEW.as_secs()) <= unix(now)) {
        return refuse("expired");
    }
    Ok(())
}

/// A token for the service account, valid from now for `ttl` (1 s to [`MAX_TTL`]).
pub fn issue(
    state_dir: &Path,
    namespace: &str,
    service_account: &str,
    ttl: Duration,
    now: SystemTime,
) -> Result<String, Error> {
    if ttl < Duration::from_secs(1) || ttl > MAX_TTL {
        return Err(Error::Token("a token lives from 1s to 7 days".to_owned()));
    }
    check_names(namespace, service_account)?;
    let key = load_or_create(state_dir)?;
    let issued = unix(now);
    let wire = Wire {
        iss: ISSUER.to_owned(),
        sub: format!("{namespace}/{service_account}"),
        aud: vec![AUDIENCE.to_owned()],
        iat: issued,
        nbf: issued,
        exp: issued + ttl.as_secs(),
        jti: hex(&rand::random::<[u8; 16]>()),
    };
    let signer = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).map_err(refusal)?;
    jsonwebtoken::encode(&Header::new(Algorithm::ES256), &wire, &signer).map_err(refusal)
}

/// Checks `token` against the key in the state dir. For one token; a server keeps a [`Verifier`].
pub fn verify(state_dir: &Path, token: &str, now: SystemTime) -> Result<Claims, Error> {
    Verifier::load(state_dir)?.verify(token, now)
}

impl Verifier {
    /// Makes the key if there is none yet.
    pub fn load(state_dir: &Path) -> Result<Self, Error> {
        let key = load_or_create(state_dir)?;
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "nbf", "aud", "iss", "sub"]);
        // The clock is a parameter here, so the times are checked below instead.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.leeway = 0;
        let key = DecodingKey::from_ec_pem(key.public_key_pem().as_bytes()).map_err(refusal)?;
        Ok(Self { key, validation })
    }

    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Claims, Error> {
        if token.len() > MAX_LENGTH {
            return Err(Error::Token("longer than 4096 bytes".to_owned()));
        }
        let wire = jsonwebtoken::decode::<Wire>(token, &self.key, &self.validation)
            .map_err(refusal)?
            .claims;
        let now = unix(now);
        if now >= wire.exp {
            return Err(Error::Token(format!("expired {} s ago", now - wire.exp)));
        }
        if now + CLOCK_SKEW.as_secs() < wire.nbf {
            return Err(Error::Token("not valid yet".to_owned()));
        }
        if wire.exp.saturating_sub(wire.nbf) > MAX_TTL.as_secs() {
            return Err(Error::Token("lives longer than 7 days".to_owned()));
        }
        let subject = wire.sub.split_once('/');
        let (namespace, account) =
            subject.ok_or_else(|| Error::Token("subject is not NS/NAME".to_owned()))?;
        check_names(namespace, account)?;
        Ok(Claims {
            namespace: namespace.to_owned(),
            service_account: account.to_owned(),
            expires: UNIX_EPOCH + Duration::from_secs(wire.exp),
        })
    }
}

/// The same characters that a SPIFFE id takes, so that a subject can never become another path.
fn check_names(namespace: &str, service_account: &str) -> Result<(), Error> {
    SpiffeId::parse(&format!(
        "spiffe://check/ns/{namespace}/sa/{service_account}"
    ))
    .map(drop)
    .map_err(|e| Error::Token(e.reason.to_owned()))
}

fn key_path(state_dir: &Path) -> PathBuf {
    state_dir.join("token").join("key.pem")
}

fn load_or_create(state_dir: &Path) -> Result<KeyPair, Error> {
    let path = key_path(state_dir);
    if files::read(&path)?.is_none() {
        files::create_dir(state_dir, 0o755)?;
        files::create_dir(&state_dir.join("token"), 0o700)?;
        let key = KeyPair::generate().map_err(|e| Error::Key(e.to_string()))?;
        // Whoever loses this race reads the winner's key below.
        files::create_new(&path, &key.serialize_pem(), files::SECRET)?;
    }
    let pem = files::read(&path)?.ok_or_else(|| Error::State {
        path: path.clone(),
        reason: "vanished while it was read".to_owned(),
    })?;
    KeyPair::from_pem(&pem).map_err(|e| Error::State {
        path,
        reason: e.to_string(),
    })
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

fn refusal(error: jsonwebtoken::errors::Error) -> Error {
    Error::Token(error.to_string())
}

#[cfg(test)]
mod tests;
