//! What is published, over an authority in a folder of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use tasuki_identity::TrustDomain;

use super::*;
use crate::ads::ClientKind;
use crate::snapshot::tests::{SHOP, mesh};

const TTL: Duration = Duration::from_secs(3600);

fn published(dir: &std::path::Path) -> Published {
    let domain = TrustDomain::new("cluster.local").unwrap();
    let authority = Authority::open(dir, &domain, TTL).unwrap();
    let mesh = Arc::into_inner(mesh(&[SHOP])).unwrap();
    Published::new(mesh, authority)
}

fn envoy(identity: Option<&str>) -> Client {
    Client {
        kind: ClientKind::EnvoyGateway,
        dialect: Dialect::Envoy {
            secrets: identity.is_some(),
        },
        namespace: "edge".into(),
        labels: BTreeMap::new(),
        follows: None,
        identity: identity.map(|id| SpiffeId::parse(id).unwrap()),
        proven: None,
        node_id: "router~10.0.0.1~x.edge~edge".into(),
        features: Vec::new(),
    }
}

#[test]
fn a_certificate_that_is_due_wakes_the_streams_once() {
    let dir = tempfile::tempdir().unwrap();
    let published = published(dir.path());
    let client = envoy(Some("spiffe://cluster.local/ns/edge/sa/gateway"));
    let first = published.view(&client).get(ResourceType::Secret, "default");
    let again = published.view(&client).get(ResourceType::Secret, "default");
    assert_eq!(
        first.as_ref().unwrap().version,
        again.as_ref().unwrap().version
    );
    let before = published.generation();
    published.renew_secrets(SystemTime::now());
    assert_eq!(published.generation(), before);
    let late = SystemTime::now() + TTL;
    for _ in 0..5 {
        published.renew_secrets(late);
    }
    assert_eq!(
        published.generation(),
        before + 1,
        "an Envoy that has gone keeps nobody busy"
    );
    let renewed = published.view(&client).get(ResourceType::Secret, "default");
    assert_ne!(first.unwrap().version, renewed.unwrap().version);
}

#[test]
fn keys_are_for_those_who_have_proven_who_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let published = published(dir.path());
    let mut stranger = envoy(None);
    for name in ["default", "ROOTCA"] {
        assert!(
            published
                .view(&stranger)
                .get(ResourceType::Secret, name)
                .is_none()
        );
    }
    stranger.dialect = Dialect::Envoy { secrets: true };
    let view = published.view(&stranger);
    assert!(view.get(ResourceType::Secret, "default").is_none());
    assert!(
        view.get(ResourceType::TrustBundle, "cluster.local")
            .is_none()
    );
}

#[test]
fn new_roots_come_with_the_newest_mesh() {
    let dir = tempfile::tempdir().unwrap();
    let published = published(dir.path());
    let newer = mesh(&[]);
    published.publish(newer.clone());
    published.refresh_trust();
    assert!(Arc::ptr_eq(&published.mesh(), &newer));
    assert_eq!(published.generation(), 3);
}
