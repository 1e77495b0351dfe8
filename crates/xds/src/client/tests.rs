//! The client alone; together with the server in `server/tests.rs`.

use envoy_types::pb::envoy::service::discovery::v3::Resource as WireResource;
use prost::Message;

use super::{AdsClient, Event, NodeInfo};
use crate::codec::{Dialect, encode};
use crate::model::{Resource, ResourceType, TrustBundle};
use crate::proto::{DeltaDiscoveryResponse, Rejected};
use crate::{DEPARTURE_FEATURE, TASUKI_FEATURE};

fn bundle(name: &str) -> WireResource {
    let encoded = encode(
        &Resource::TrustBundle(TrustBundle {
            name: name.to_owned(),
            roots: vec![vec![0x30]],
        }),
        &Dialect::Tasuki,
    );
    WireResource {
        name: name.to_owned(),
        version: encoded.version.clone(),
        resource: Some(encoded.any.clone()),
        ..WireResource::default()
    }
}

fn response(resources: Vec<WireResource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: ResourceType::TrustBundle.type_url().to_owned(),
        nonce: "n1".to_owned(),
        resources,
        ..DeltaDiscoveryResponse::default()
    }
}

fn client() -> AdsClient {
    let mut client = AdsClient::new(&NodeInfo::gateway("edge", "public", "1"));
    client.subscribe(ResourceType::TrustBundle, "cluster.local");
    client.connected();
    client
}

#[test]
fn the_node_is_in_the_first_request_only() {
    let mut client = client();
    client.subscribe(ResourceType::Route, "r");
    let first = client.next_request().unwrap();
    let node = first.node.unwrap();
    assert_eq!(
        (node.id.as_str(), node.client_features.as_slice()),
        (
            "gateway~edge/public",
            &[TASUKI_FEATURE.to_owned(), DEPARTURE_FEATURE.to_owned()][..]
        )
    );
    assert_eq!(client.next_request().unwrap().node, None);
    assert_eq!(client.next_request(), None);
}

#[test]
fn a_refusal_names_the_bad_one() {
    let mut client = client();
    client.subscribe(ResourceType::TrustBundle, "liar");
    while client.next_request().is_some() {}
    let mut liar = bundle("somebody.else");
    liar.name = "liar".to_owned();
    let events = client.on_response(response(vec![bundle("cluster.local"), liar]));
    assert!(
        matches!(&events[0], Event::Updated(update) if update.resource.name() == "cluster.local")
    );
    assert!(matches!(&events[1], Event::Rejected { refusal, .. } if refusal.name == "liar"));
    let nack = client.next_request().unwrap();
    assert_eq!(nack.response_nonce, "n1");
    let detail = &nack.error_detail.unwrap().details[0];
    let rejected = Rejected::decode(detail.value.as_slice()).unwrap();
    assert_eq!(
        (detail.type_url.as_str(), rejected.name.as_str()),
        (crate::proto::REJECTED_URL, "liar")
    );
}

#[test]
fn what_is_not_wanted_is_ignored_and_what_is_held_is_not_repeated() {
    let mut client = client();
    assert!(
        client
            .on_response(response(vec![bundle("unasked")]))
            .is_empty()
    );
    assert_eq!(
        client
            .on_response(response(vec![bundle("cluster.local")]))
            .len(),
        1
    );
    assert!(
        client
            .on_response(response(vec![bundle("cluster.local")]))
            .is_empty()
    );
}

#[test]
fn an_unknown_type_is_refused() {
    let mut client = client();
    while client.next_request().is_some() {}
    let mut strange = response(Vec::new());
    strange.type_url = "type.googleapis.com/x.Y".to_owned();
    assert!(client.on_response(strange).is_empty());
    assert!(client.next_request().unwrap().error_detail.is_some());
}
