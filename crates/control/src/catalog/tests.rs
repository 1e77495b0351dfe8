//! What is published, over an authority in a folder of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use tasuki_identity::TrustDomain;

use super::*;
use crate::ads::ClientKind;
use crate::snapshot::tests::{SHOP, mesh};

const TTL: Duration = Duration::from_secs(3600);

impl Published {
    fn view(&self, who: &Client) -> ClientView {
        self.view_of(self.current.load_full(), who.clone())
    }
}

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

#[test]
fn only_those_look_whom_a_change_concerns() {
    let dir = tempfile::tempdir().unwrap();
    let published = published(dir.path());
    let mut folder = crate::source::folder::Folder::default();
    let mut change = |ready: &str| {
        let unready = "podIP: 10.1.0.2, conditions: [{type: Ready, status: \"";
        let text = SHOP.replace(&format!("{unready}True"), &format!("{unready}{ready}"));
        for (index, document) in text.split("---").enumerate() {
            folder.put(&index.to_string(), Ok(document.to_owned()));
        }
        let (source, now) = (Arc::new(folder.objects()), tokio::time::Instant::now());
        published.publish(Arc::new(published.mesh().successor(&source, now)));
        published.view(&envoy(None)).generation()
    };
    let caller = Client {
        kind: ClientKind::Grpc,
        dialect: Dialect::Grpc { provider: None },
        ..envoy(None)
    };
    let of = |client: &Client, name| {
        let asked = [(ResourceType::Endpoint, name)];
        published.interest(client, &asked)
    };
    let cart = "outbound|8080||cart.shop.svc.cluster.local";
    let first = change("True");
    let (viewer, other) = (of(&caller, cart), of(&caller, "pod|10.1.0.4|80"));
    let gateway = of(&envoy(None), cart);
    assert_eq!(published.unchanged(first, &viewer), Some(first));
    // Its certificate may be due.
    assert_eq!(published.unchanged(first, &gateway), None);
    let second = change("False");
    assert_eq!(published.unchanged(first, &viewer), None);
    assert_eq!(published.unchanged(second, &viewer), Some(second));
    assert_eq!(published.unchanged(first, &other), Some(second));
    for _ in 0..REMEMBERED {
        change("False");
    }
    assert_eq!(
        published.unchanged(second, &viewer),
        Some(second + REMEMBERED as u64)
    );
    assert_eq!(published.unchanged(first, &other), None, "too long ago");
    let last = change("False");
    published.refresh_trust();
    assert_eq!(published.unchanged(last, &other), None, "roots are for all");
}

/// Whoever looks while something is published must not see its own Pod in one state and the rest in the next.
#[test]
fn a_client_and_its_view_are_of_one_state() {
    let dir = tempfile::tempdir().unwrap();
    let published = published(dir.path());
    let client = Client {
        kind: ClientKind::Grpc,
        follows: Some("shop/cart-v1".parse().unwrap()),
        ..envoy(None)
    };
    let of_version = |version: &str| {
        let text = SHOP.replacen("version: v1", &format!("version: {version}"), 1);
        mesh(&[&text])
    };
    // The first state is v1's, and so every odd one.
    let meshes = [of_version("v2"), of_version("v1")];
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            for turn in 0..300 {
                published.publish(meshes[turn % 2].clone());
            }
        });
        loop {
            let is_last = publisher.is_finished();
            let (client, view) = published.look(&client).unwrap();
            let version = match view.generation() % 2 {
                0 => "v2",
                _ => "v1",
            };
            assert_eq!(client.labels["version"], version);
            if is_last {
                break;
            }
        }
    });
}
