//! The authority on disk: what it signs, refuses and keeps over restarts.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;
use x509_parser::prelude::{FromDer, X509Certificate};

use std::collections::BTreeMap;

use super::*;
use crate::csr::CsrPem;
use crate::csr::{key_and_csr, uri_name};
use crate::pod_record::PodRecord;
use rcgen::{CertificateParams, IsCa};

const HOUR: Duration = Duration::from_secs(3600);

fn domain() -> TrustDomain {
    TrustDomain::new("cluster.local").unwrap()
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new(&domain(), "shop", account).unwrap()
}

fn open(dir: &TempDir) -> CertificateAuthority {
    CertificateAuthority::open(dir.path(), &domain(), SystemTime::now()).unwrap()
}

fn csr(account: &str) -> CsrPem {
    key_and_csr(&id(account)).unwrap().1
}

#[test]
fn a_leaf_is_what_the_authority_says_not_what_the_request_says() {
    let dir = TempDir::new().unwrap();
    let mut ca = open(&dir);
    let now = SystemTime::now();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "admin");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.subject_alt_names = vec![uri_name(&id("cart")).unwrap()];
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let issued = ca.sign(&csr, &id("cart"), HOUR, now).unwrap();
    let certificate =
        WorkloadCertificate::from_pem(&issued.leaf_pem, &key.serialize_pem()).unwrap();
    assert_eq!(certificate.id(), &id("cart"));
    let (_, leaf) = X509Certificate::from_der(&certificate.chain()[0]).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    assert!(!leaf.is_ca());
    assert!(leaf.subject_alternative_name().unwrap().unwrap().critical);
    assert!(
        certificate.not_before() < now,
        "verifiers' clocks may be behind"
    );
    let lifetime = certificate.not_after().duration_since(now).unwrap();
    assert!(
        lifetime <= HOUR && lifetime > HOUR - Duration::from_secs(2),
        "{lifetime:?}"
    );
}

#[test]
fn requests_that_are_not_signed() {
    let dir = TempDir::new().unwrap();
    let mut ca = open(&dir);
    let now = SystemTime::now();
    assert!(matches!(
        ca.sign(csr("cart").as_str(), &id("pay"), HOUR, now),
        Err(Error::Csr(_))
    ));
    assert!(matches!(
        ca.sign("nonsense", &id("pay"), HOUR, now),
        Err(Error::Csr(_))
    ));
    assert!(matches!(
        ca.sign(&"x".repeat(100_000), &id("pay"), HOUR, now),
        Err(Error::Csr(_))
    ));
    assert!(matches!(
        ca.sign(csr("pay").as_str(), &id("pay"), Duration::ZERO, now),
        Err(Error::Csr(_))
    ));

    let key = rcgen::KeyPair::generate().unwrap();
    let mut two = CertificateParams::default();
    two.subject_alt_names = vec![
        uri_name(&id("pay")).unwrap(),
        uri_name(&id("cart")).unwrap(),
    ];
    let two = two.serialize_request(&key).unwrap().pem().unwrap();
    assert!(matches!(
        ca.sign(&two, &id("pay"), HOUR, now),
        Err(Error::Csr(_))
    ));
    let mut named = CertificateParams::new(vec!["pay.shop.svc".to_owned()]).unwrap();
    named.subject_alt_names.push(uri_name(&id("pay")).unwrap());
    let named = named.serialize_request(&key).unwrap().pem().unwrap();
    assert!(matches!(
        ca.sign(&named, &id("pay"), HOUR, now),
        Err(Error::Csr(_))
    ));

    let elsewhere = SpiffeId::parse("spiffe://elsewhere/ns/shop/sa/pay").unwrap();
    let foreign = key_and_csr(&elsewhere).unwrap().1;
    assert!(matches!(
        ca.sign(foreign.as_str(), &elsewhere, HOUR, now),
        Err(Error::Csr(_))
    ));
}

#[test]
fn a_request_must_prove_its_key() {
    use rustls_pki_types::CertificateSigningRequestDer;
    use rustls_pki_types::pem::PemObject;
    let dir = TempDir::new().unwrap();
    let der = CertificateSigningRequestDer::from_pem_slice(csr("pay").as_str().as_bytes()).unwrap();
    let mut bytes = der.to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let forged = crate::certificate::pem_block("CERTIFICATE REQUEST", &bytes);
    assert!(
        open(&dir)
            .sign(&forged, &id("pay"), HOUR, SystemTime::now())
            .is_err()
    );
}

#[test]
fn survives_a_restart_and_is_held_by_one_process() {
    let dir = TempDir::new().unwrap();
    let first = open(&dir);
    let roots = first.roots().clone();
    assert!(CertificateAuthority::is_open(dir.path()).unwrap());
    let second = CertificateAuthority::open(dir.path(), &domain(), SystemTime::now());
    assert!(matches!(second, Err(Error::InUse(_))));
    drop(first);
    assert!(!CertificateAuthority::is_open(dir.path()).unwrap());
    std::fs::remove_file(bundle_path(dir.path())).unwrap();
    assert_eq!(open(&dir).roots(), &roots);
    assert_eq!(Roots::from_file(&bundle_path(dir.path())).unwrap(), roots);
    let other = TrustDomain::new("other.local").unwrap();
    let wrong = CertificateAuthority::open(dir.path(), &other, SystemTime::now());
    assert!(matches!(wrong, Err(Error::State { .. })));
}

#[test]
fn keys_are_for_the_owner_only_and_orphans_go() {
    let dir = TempDir::new().unwrap();
    drop(open(&dir));
    let orphan = directory(dir.path()).join("root-0011223344556677.key.pem");
    std::fs::write(&orphan, "x").unwrap();
    drop(open(&dir));
    assert!(!orphan.exists());
    let mut keys = 0;
    for entry in std::fs::read_dir(directory(dir.path())).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_str().unwrap().ends_with(".key.pem") {
            keys += 1;
            assert_eq!(
                entry.metadata().unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
    }
    assert_eq!(keys, 1);
    let bundle = bundle_path(dir.path()).metadata().unwrap();
    assert_eq!(
        bundle.permissions().mode() & 0o777,
        0o644,
        "proxies read it"
    );
}

/// Each step, with a crash after each: the authority is dropped and opened again.
#[test]
fn rotation_step_by_step_with_crashes() {
    let dir = TempDir::new().unwrap();
    let now = SystemTime::now();
    let root_of = |ca: &mut CertificateAuthority| {
        ca.sign(csr("cart").as_str(), &id("cart"), HOUR, now)
            .unwrap()
            .root_pem
    };
    let mut ca = open(&dir);
    let old = root_of(&mut ca);
    assert!(ca.keys().switch_signer(HOUR, now).is_err() && ca.keys().retire_old(now).is_err());
    ca.step(|keys| keys.add_root(None, now)).unwrap();
    drop(ca);

    let mut ca = open(&dir);
    assert!(matches!(ca.keys().phase(), Phase::Adding { .. }));
    assert_eq!(ca.roots().certificates().len(), 2);
    assert_eq!(
        root_of(&mut ca),
        old,
        "the new root is not used before all trust it"
    );
    assert!(ca.keys().add_root(None, now).is_err());
    ca.step(|keys| keys.switch_signer(HOUR, now)).unwrap();
    drop(ca);

    let mut ca = open(&dir);
    let new = root_of(&mut ca);
    assert_ne!(new, old);
    assert_eq!(ca.roots().certificates().len(), 2);
    let server = ca
        .server_certificate(&id("control"), &["localhost".to_owned()], HOUR, now)
        .unwrap();
    let (_, leaf) = X509Certificate::from_der(&server.chain()[0]).unwrap();
    let old_der = Roots::from_pem(old.as_bytes()).unwrap();
    let (_, old_root) = X509Certificate::from_der(&old_der.certificates()[0]).unwrap();
    assert_eq!(
        leaf.issuer(),
        old_root.subject(),
        "proxies that were away know only the old root"
    );
    assert!(
        ca.keys()
            .retire_old(now + HOUR - Duration::from_secs(1))
            .is_err()
    );
    let over = now + HOUR + Duration::from_secs(1);
    ca.step(|keys| keys.retire_old(over)).unwrap();
    drop(ca);

    let ca = open(&dir);
    assert!(matches!(ca.keys().phase(), Phase::Steady { .. }));
    assert_eq!(ca.roots().to_pem(), new);
    assert_eq!(
        std::fs::read_to_string(bundle_path(dir.path())).unwrap(),
        new
    );
    let keys = std::fs::read_dir(directory(dir.path())).unwrap();
    assert_eq!(
        keys.filter(|e| e
            .as_ref()
            .unwrap()
            .path()
            .to_str()
            .unwrap()
            .ends_with("key.pem"))
            .count(),
        1
    );
}

#[test]
fn an_unreadable_state_is_an_error_not_a_new_authority() {
    let dir = TempDir::new().unwrap();
    drop(open(&dir));
    let path = directory(dir.path()).join(state::FILE);
    for broken in ["", "{", r#"{"version":2}"#] {
        std::fs::write(&path, broken).unwrap();
        let opened = CertificateAuthority::open(dir.path(), &domain(), SystemTime::now());
        assert!(matches!(opened, Err(Error::State { .. })), "{broken}");
    }
}

#[test]
fn the_pod_is_in_the_certificate_and_nothing_else_changes() {
    let dir = TempDir::new().unwrap();
    let mut ca = open(&dir);
    ca.record_ttl(HOUR).unwrap();
    let now = SystemTime::now();
    let record = PodRecord::new("cart-1", "5c06c2ed-2fed-4325-a0a0-64bfe6429201").unwrap();
    let leaf = |pod: Option<&PodRecord>| {
        let csr = csr("cart");
        let issued = ca.keys().sign(csr.as_str(), &id("cart"), pod, HOUR, now);
        let der = Roots::from_pem(issued.unwrap().leaf_pem.as_bytes());
        crate::peer::read(&der.unwrap().certificates()[0])
            .unwrap()
            .peer
    };
    let with = leaf(Some(&record));
    assert_eq!(with.pod.as_ref(), Some(&record));
    let without = leaf(None);
    assert_eq!(without.pod, None);
    assert_eq!((with.id, with.subject), (without.id, without.subject));
}

/// What `openssl` and Istio's Makefile make: a root, an intermediate under it, and the four files.
fn plugged(domain: &TrustDomain) -> (BTreeMap<&'static str, String>, rcgen::KeyPair) {
    plugged_until(domain, None)
}

/// The intermediate ends then.
fn plugged_until(
    domain: &TrustDomain,
    end: Option<SystemTime>,
) -> (BTreeMap<&'static str, String>, rcgen::KeyPair) {
    let authority = |name: &str, path: u8| {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(path));
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        params
    };
    let (root_key, key) = (
        rcgen::KeyPair::generate().unwrap(),
        rcgen::KeyPair::generate().unwrap(),
    );
    let params = authority("company root", 1);
    let root = params.self_signed(&root_key).unwrap();
    let issuer = rcgen::Issuer::new(params, root_key);
    let name = format!("mesh {domain}");
    let mut params = authority(&name, 0);
    if let Some(end) = end {
        params.not_after = end.into();
    }
    let intermediate = params.signed_by(&key, &issuer).unwrap();
    let files = BTreeMap::from([
        ("ca-cert.pem", intermediate.pem()),
        ("ca-key.pem", key.serialize_pem()),
        ("cert-chain.pem", intermediate.pem() + &root.pem()),
        ("root-cert.pem", root.pem()),
    ]);
    (files, key)
}

fn read_plugin(files: &BTreeMap<&'static str, String>) -> Result<PlugIn, Error> {
    PlugIn::read(&domain(), SystemTime::now(), |key| files.get(key).cloned())
}

#[test]
fn a_plugged_in_intermediate_signs_and_its_chain_goes_with_the_leaf() {
    let (files, _) = plugged(&domain());
    let plugin = read_plugin(&files).unwrap();
    let now = SystemTime::now();
    let ring = KeyRing::create(&domain(), Some(&plugin), now).unwrap();
    let ring = ring.record_ttl(HOUR).unwrap();
    let kept = ring.files().unwrap();
    let ring = KeyRing::load(&domain(), |file| Ok(kept.get(file).cloned()));
    let ring = ring.unwrap().unwrap();
    assert!(ring.is_plugged() && ring.has_plugged(&plugin));
    assert_eq!(
        ring.roots(),
        &Roots::from_pem(files["root-cert.pem"].as_bytes()).unwrap()
    );
    let issued = ring
        .sign(csr("cart").as_str(), &id("cart"), None, HOUR, now)
        .unwrap();
    assert_eq!(issued.intermediates_pem.len(), 1, "the root is not sent");
    assert_eq!(
        Roots::from_pem(issued.root_pem.as_bytes()).unwrap(),
        *ring.roots()
    );

    // To another one, with both roots trusted in between.
    let (others, _) = plugged(&domain());
    let other = read_plugin(&others).unwrap();
    let adding = ring.add_root(Some(&other), now).unwrap();
    assert_eq!(adding.roots().certificates().len(), 2);
    let switched = adding.switch_signer(HOUR, now).unwrap();
    let over = switched.retire_old(now + 2 * HOUR).unwrap();
    assert_eq!(
        over.roots(),
        &Roots::from_pem(others["root-cert.pem"].as_bytes()).unwrap()
    );
}

#[test]
fn an_intermediate_is_not_used_beyond_its_end() {
    let now = SystemTime::now();
    let (files, _) = plugged_until(&domain(), Some(now + HOUR));
    let plugin = read_plugin(&files).unwrap();
    let ring = KeyRing::create(&domain(), Some(&plugin), now).unwrap();
    let ring = ring.record_ttl(24 * HOUR).unwrap();
    let signs = |ring: &KeyRing, at| {
        let issued = ring.sign(csr("cart").as_str(), &id("cart"), None, HOUR, at);
        issued.map(|issued| (issued.root_pem, issued.not_after))
    };
    let serves = |ring: &KeyRing, at| {
        let certificate = ring.server_certificate(&id("control"), &[], HOUR, at);
        certificate.unwrap().not_after()
    };
    let late = now + HOUR - Duration::from_secs(60);
    assert_eq!(signs(&ring, late).unwrap().0, files["root-cert.pem"]);
    let refused = signs(&ring, now + HOUR).unwrap_err().to_string();
    assert!(refused.contains("has expired"), "{refused}");
    assert!(ring.ends().unwrap() <= now + HOUR);

    // Another one comes in its last hour, and not everybody knows it by its end.
    let adding = ring.add_root(None, now).unwrap();
    assert_eq!(signs(&adding, now).unwrap().0, files["root-cert.pem"]);
    assert!(serves(&adding, now) <= now + HOUR);
    let (root, end) = signs(&adding, late).unwrap();
    assert!(root != files["root-cert.pem"] && end > now + HOUR);
    assert!(serves(&adding, late) > now + HOUR);

    // What it has signed ends with it, so it is not kept for longer.
    let switched = adding.switch_signer(24 * HOUR, now).unwrap();
    assert!(switched.phase().old_leaves_end().unwrap() <= now + HOUR);
    assert!(serves(&switched, late) > now + HOUR);
    assert!(switched.retire_old(now + HOUR).is_ok());
}

#[test]
fn a_plug_in_that_does_not_fit_together_is_refused_by_its_key() {
    let (good, _) = plugged(&domain());
    let (other, _) = plugged(&domain());
    for (key, text, named) in [
        ("ca-cert.pem", String::new(), "ca-cert.pem: missing"),
        ("ca-key.pem", String::new(), "ca-key.pem: missing"),
        ("root-cert.pem", "x".to_owned(), "root-cert.pem: "),
        (
            "ca-key.pem",
            other["ca-key.pem"].clone(),
            "ca-cert.pem: peers would refuse",
        ),
        (
            "root-cert.pem",
            other["root-cert.pem"].clone(),
            "ca-cert.pem: peers would refuse",
        ),
        ("ca-key.pem", "x".to_owned(), ".key.pem: "),
    ] {
        let mut files = good.clone();
        files.insert(key, text);
        let refused = read_plugin(&files).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains(named), "{key}: {refused}");
        assert!(!refused.contains("PRIVATE"), "{refused}");
    }
}
