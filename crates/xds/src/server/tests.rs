//! The sessions against our own client machine and against hand-written requests.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::google::rpc::Status;

use super::{DeltaSession, Options, SotwSession, View};
use crate::Any;
use crate::client::{AdsClient, Event, NodeInfo};
use crate::codec::{Dialect, Encoded, encode};
use crate::model::endpoint::ClusterLoadAssignment;
use crate::model::{Resource, ResourceType, RouteConfiguration};
use crate::proto::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};

/// What exists, by type and name; counts look-ups.
#[derive(Default)]
struct Table(RefCell<BTreeMap<(ResourceType, String), Arc<Encoded>>>);

impl Table {
    fn put(&self, resource: &Resource) {
        let encoded = encode(resource, &Dialect::Tasuki);
        self.0
            .borrow_mut()
            .insert((encoded.ty, encoded.name.clone()), encoded);
    }

    /// A resource of any type whose content is only its version.
    fn raw(&self, ty: ResourceType, name: &str, version: &str) {
        let any = Any {
            type_url: ty.type_url().to_owned(),
            value: version.as_bytes().to_vec(),
        };
        let encoded = Encoded {
            ty,
            name: name.to_owned(),
            version: version.to_owned(),
            any,
        };
        self.0
            .borrow_mut()
            .insert((ty, name.to_owned()), Arc::new(encoded));
    }

    fn remove(&self, ty: ResourceType, name: &str) {
        self.0.borrow_mut().remove(&(ty, name.to_owned()));
    }
}

impl View for Table {
    fn get(&self, ty: ResourceType, name: &str) -> Option<Arc<Encoded>> {
        self.0.borrow().get(&(ty, name.to_owned())).cloned()
    }

    fn list(&self, ty: ResourceType) -> Vec<Arc<Encoded>> {
        self.0
            .borrow()
            .iter()
            .filter(|((t, _), _)| *t == ty)
            .map(|(_, e)| e.clone())
            .collect()
    }
}

fn routes(name: &str, hosts: &[&str]) -> Resource {
    let virtual_hosts = hosts.iter().map(|host| crate::model::route::VirtualHost {
        name: (*host).to_owned(),
        domains: vec![(*host).to_owned()],
        routes: Vec::new(),
    });
    Resource::Route(RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: virtual_hosts.collect(),
    })
}

fn endpoints(name: &str) -> Resource {
    Resource::Endpoint(ClusterLoadAssignment {
        cluster: name.to_owned(),
        localities: Vec::new(),
    })
}

/// Exchanges messages until neither side has anything to say; returns what the client saw, and how many
/// responses it took.
fn settle(client: &mut AdsClient, server: &mut DeltaSession, table: &Table) -> (Vec<Event>, usize) {
    let (mut events, mut count) = (Vec::new(), 0);
    loop {
        let mut quiet = true;
        while let Some(request) = client.next_request() {
            quiet = false;
            server.on_request(request);
        }
        for response in server.poll(table) {
            quiet = false;
            count += 1;
            events.extend(client.on_response(response));
        }
        if quiet {
            return (events, count);
        }
        assert!(count < 100, "the two never come to rest");
    }
}

fn pair() -> (AdsClient, DeltaSession, Table) {
    let mut client = AdsClient::new(&NodeInfo::sidecar("shop", "cart-1", "test"));
    client.connected();
    (
        client,
        DeltaSession::new(Options::default()),
        Table::default(),
    )
}

fn updated(events: &[Event]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|e| match e {
            Event::Updated(update) => Some(update.resource.name()),
            _ => None,
        })
        .collect()
}

fn removed(events: &[Event]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|e| match e {
            Event::Removed { name, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect()
}

#[test]
fn what_is_asked_for_arrives_and_only_changes_follow() {
    let (mut client, mut server, table) = pair();
    table.put(&routes("a", &["x"]));
    table.put(&routes("b", &["y"]));
    assert!(client.subscribe(ResourceType::Route, "a"));
    assert!(client.subscribe(ResourceType::Route, "b"));
    assert!(!client.subscribe(ResourceType::Route, "b"));
    let (events, responses) = settle(&mut client, &mut server, &table);
    assert_eq!((updated(&events), responses), (vec!["a", "b"], 1));
    table.put(&routes("b", &["z"]));
    let (events, _) = settle(&mut client, &mut server, &table);
    assert_eq!(updated(&events), ["b"]);
    assert_eq!(settle(&mut client, &mut server, &table).1, 0);
    assert!(
        server
            .status()
            .iter()
            .all(|s| s.acked == s.sent && s.refusal.is_none())
    );
}

#[test]
fn an_unknown_name_is_answered_at_once_and_arrives_when_it_exists() {
    let (mut client, mut server, table) = pair();
    client.subscribe(ResourceType::Route, "later");
    let (events, _) = settle(&mut client, &mut server, &table);
    assert_eq!(removed(&events), ["later"]);
    assert_eq!(settle(&mut client, &mut server, &table).1, 0, "told once");
    table.put(&routes("later", &["x"]));
    assert_eq!(
        updated(&settle(&mut client, &mut server, &table).0),
        ["later"]
    );
    table.remove(ResourceType::Route, "later");
    assert_eq!(
        removed(&settle(&mut client, &mut server, &table).0),
        ["later"]
    );
}

#[test]
fn a_bad_resource_is_refused_by_name_and_the_good_one_applies() {
    let (mut client, mut server, table) = pair();
    table.put(&routes("good", &["x"]));
    table.put(&routes("bad", &["x", "x"]));
    client.subscribe(ResourceType::Route, "good");
    client.subscribe(ResourceType::Route, "bad");
    let (events, _) = settle(&mut client, &mut server, &table);
    assert_eq!(updated(&events), ["good"]);
    let status = server.status();
    let bad = status.iter().find(|s| s.name == "bad").unwrap();
    assert!(
        bad.refusal.as_ref().unwrap().contains("`x` twice"),
        "{bad:?}"
    );
    assert_eq!(bad.acked, None);
    assert!(
        status
            .iter()
            .find(|s| s.name == "good")
            .unwrap()
            .refusal
            .is_none()
    );
    table.put(&routes("bad", &["x"]));
    assert_eq!(
        updated(&settle(&mut client, &mut server, &table).0),
        ["bad"]
    );
    assert!(server.status().iter().all(|s| s.refusal.is_none()));
}

#[test]
fn the_owners_check_refuses_too() {
    let (client, mut server, table) = pair();
    let mut client = client.with_check(Box::new(|resource| match resource.name() {
        "b" => Err("not today".to_owned()),
        _ => Ok(()),
    }));
    table.put(&routes("a", &[]));
    table.put(&routes("b", &[]));
    client.subscribe(ResourceType::Route, "a");
    client.subscribe(ResourceType::Route, "b");
    assert_eq!(updated(&settle(&mut client, &mut server, &table).0), ["a"]);
    assert_eq!(server.status()[1].refusal.as_deref(), Some("not today"));
}

#[test]
fn a_reconnect_resends_only_what_changed_and_tells_what_is_gone() {
    let (mut client, mut server, table) = pair();
    for name in ["same", "changed", "gone"] {
        table.put(&routes(name, &["x"]));
        client.subscribe(ResourceType::Route, name);
    }
    settle(&mut client, &mut server, &table);
    client.disconnected();
    assert_eq!(client.next_request(), None);
    table.put(&routes("changed", &["y"]));
    table.remove(ResourceType::Route, "gone");
    client.connected();
    let mut server = DeltaSession::new(Options::default());
    let (events, _) = settle(&mut client, &mut server, &table);
    assert_eq!(
        (updated(&events), removed(&events)),
        (vec!["changed"], vec!["gone"])
    );
    assert!(
        server
            .status()
            .iter()
            .find(|s| s.name == "same")
            .unwrap()
            .acked
            .is_some()
    );
}

#[test]
fn a_restored_resource_is_not_sent_again() {
    let (mut client, mut server, table) = pair();
    table.put(&routes("kept", &["x"]));
    client.subscribe(ResourceType::Route, "kept");
    let (events, _) = settle(&mut client, &mut server, &table);
    let Event::Updated(kept) = &events[0] else {
        panic!("{events:?}")
    };

    let mut restarted = AdsClient::new(&NodeInfo::default());
    restarted
        .restore(ResourceType::Route, &kept.version, &kept.any)
        .unwrap();
    restarted.subscribe(ResourceType::Route, "kept");
    restarted.connected();
    let mut server = DeltaSession::new(Options::default());
    assert_eq!(settle(&mut restarted, &mut server, &table).1, 0);
    table.put(&routes("kept", &["y"]));
    assert_eq!(
        updated(&settle(&mut restarted, &mut server, &table).0),
        ["kept"]
    );
}

#[test]
fn a_wildcard_gets_everything_and_learns_of_removals() {
    let (mut client, mut server, table) = pair();
    table.put(&endpoints("a"));
    table.put(&endpoints("b"));
    client.subscribe_all(ResourceType::Endpoint);
    assert_eq!(
        updated(&settle(&mut client, &mut server, &table).0),
        ["a", "b"]
    );
    table.remove(ResourceType::Endpoint, "a");
    table.put(&endpoints("c"));
    let (events, _) = settle(&mut client, &mut server, &table);
    assert_eq!((updated(&events), removed(&events)), (vec!["c"], vec!["a"]));
    client.connected();
    table.remove(ResourceType::Endpoint, "b");
    let mut server = DeltaSession::new(Options::default());
    let (events, _) = settle(&mut client, &mut server, &table);
    assert_eq!((updated(&events), removed(&events)), (vec![], vec!["b"]));
}

#[test]
fn unsubscribing_and_asking_again_sends_again() {
    let (mut client, mut server, table) = pair();
    table.put(&endpoints("a"));
    client.subscribe(ResourceType::Endpoint, "a");
    settle(&mut client, &mut server, &table);
    assert!(client.unsubscribe(ResourceType::Endpoint, "a"));
    settle(&mut client, &mut server, &table);
    assert!(server.status().is_empty());
    client.subscribe(ResourceType::Endpoint, "a");
    assert_eq!(updated(&settle(&mut client, &mut server, &table).0), ["a"]);
    // Both before anything was sent.
    client.unsubscribe(ResourceType::Endpoint, "a");
    client.subscribe(ResourceType::Endpoint, "a");
    assert_eq!(updated(&settle(&mut client, &mut server, &table).0), ["a"]);
}

fn ask(ty: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: ty.type_url().to_owned(),
        resource_names_subscribe: names.iter().map(|n| (*n).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn types(responses: &[DeltaDiscoveryResponse]) -> Vec<ResourceType> {
    responses
        .iter()
        .map(|r| ResourceType::from_type_url(&r.type_url).unwrap())
        .collect()
}

#[test]
fn additions_go_in_order_and_removals_last() {
    use ResourceType::{Cluster, Endpoint, Listener, Route, TrustBundle};
    let table = Table::default();
    let mut server = DeltaSession::new(Options::default());
    for ty in [Route, Listener, Endpoint, Cluster, TrustBundle] {
        server.on_request(ask(ty, &["one", "two"]));
        table.raw(ty, "one", "1");
    }
    let first = server.poll(&table);
    assert_eq!(
        types(&first),
        [TrustBundle, Cluster, Endpoint, Listener, Route]
    );
    assert_eq!(first[0].removed_resources, ["two"]);
    first.iter().for_each(|r| server.on_request(ack(r)));

    table.remove(Cluster, "one");
    table.raw(Cluster, "two", "1");
    table.raw(Route, "one", "2");
    let second = server.poll(&table);
    assert_eq!(types(&second), [Cluster, Route]);
    assert!(second.iter().all(|r| r.removed_resources.is_empty()));
    server.on_request(ack(&second[0]));
    assert!(
        server.poll(&table).is_empty(),
        "the route may still name the old cluster"
    );
    server.on_request(ack(&second[1]));
    let third = server.poll(&table);
    assert_eq!(
        (types(&third), third[0].removed_resources.clone()),
        (vec![Cluster], vec!["one".to_owned()])
    );
}

#[test]
fn one_response_per_type_until_it_is_acknowledged() {
    let table = Table::default();
    let mut server = DeltaSession::new(Options::default());
    server.on_request(ask(ResourceType::Route, &["a"]));
    table.raw(ResourceType::Route, "a", "1");
    let first = server.poll(&table);
    for version in ["2", "3", "4"] {
        table.raw(ResourceType::Route, "a", version);
        assert!(server.poll(&table).is_empty());
    }
    let mut stale = ack(&first[0]);
    stale.response_nonce = "another".to_owned();
    server.on_request(stale);
    assert!(server.poll(&table).is_empty());
    server.on_request(ack(&first[0]));
    assert_eq!(server.poll(&table)[0].resources[0].version, "4");
}

#[test]
fn names_are_bounded_in_number_and_length() {
    let table = Table::default();
    let options = Options {
        max_names: 2,
        max_name_length: 4,
        ..Options::default()
    };
    let mut server = DeltaSession::new(options);
    server.on_request(ask(ResourceType::Route, &["a", "b", "c", "far too long"]));
    for name in ["a", "b", "c", "far too long"] {
        table.raw(ResourceType::Route, name, "1");
    }
    let response = server.poll(&table).remove(0);
    assert_eq!(
        response
            .resources
            .iter()
            .map(|r| r.name.as_str())
            .collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert_eq!(response.removed_resources, ["c", "far too long"]);
    assert_eq!(server.status().len(), 2);
}

#[test]
fn a_large_answer_is_cut_and_goes_on_after_its_ack() {
    let table = Table::default();
    let mut server = DeltaSession::new(Options {
        max_response: 1,
        ..Options::default()
    });
    server.on_request(ask(ResourceType::Route, &["a", "b"]));
    table.raw(ResourceType::Route, "a", "1");
    table.raw(ResourceType::Route, "b", "1");
    let first = server.poll(&table);
    assert_eq!(first[0].resources.len(), 1);
    server.on_request(ack(&first[0]));
    assert_eq!(server.poll(&table)[0].resources[0].name, "b");
}

#[test]
fn the_older_wildcard_and_its_first_empty_answer() {
    let table = Table::default();
    let mut server = DeltaSession::new(Options::default());
    server.on_request(ask(ResourceType::Cluster, &[]));
    let first = server.poll(&table);
    assert_eq!(first.len(), 1, "told that there is nothing");
    server.on_request(ack(&first[0]));
    table.raw(ResourceType::Cluster, "a", "1");
    assert_eq!(server.poll(&table)[0].resources.len(), 1);
}

#[test]
fn envoy_gets_endpoints_again_after_their_cluster_changed_and_routes_wait_for_them() {
    use ResourceType::{Cluster, Endpoint, Route};
    let table = Table::default();
    let options = Options {
        warm_clusters: true,
        ..Options::default()
    };
    let mut server = DeltaSession::new(options);
    for ty in [Cluster, Endpoint, Route] {
        server.on_request(ask(ty, &["a"]));
        table.raw(ty, "a", "1");
    }
    let first = server.poll(&table);
    assert_eq!(types(&first), [Cluster, Endpoint]);
    server.on_request(ack(&first[0]));
    assert!(server.poll(&table).is_empty(), "the cluster is warming");
    server.on_request(ack(&first[1]));
    let third = server.poll(&table);
    assert_eq!(types(&third), [Route]);
    server.on_request(ack(&third[0]));
    table.raw(Cluster, "a", "2");
    assert_eq!(types(&server.poll(&table)), [Cluster, Endpoint]);
}

#[test]
fn a_client_that_never_asks_for_endpoints_gets_its_routes_when_they_are_released() {
    use ResourceType::{Cluster, Endpoint, Route};
    let table = Table::default();
    let mut server = DeltaSession::new(Options {
        warm_clusters: true,
        ..Options::default()
    });
    for ty in [Cluster, Endpoint, Route] {
        table.raw(ty, "a", "1");
    }
    server.on_request(ask(Cluster, &["a"]));
    server.on_request(ask(Route, &["a"]));
    server
        .poll(&table)
        .iter()
        .for_each(|r| server.on_request(ack(r)));
    assert!(server.poll(&table).is_empty() && server.holds());
    server.release();
    assert_eq!(types(&server.poll(&table)), [Route]);
}

#[test]
fn sotw_routes_wait_for_the_endpoints_of_a_new_cluster() {
    use ResourceType::{Cluster, Endpoint, Route};
    let table = Table::default();
    let mut server = SotwSession::new(Options {
        warm_clusters: true,
        ..Options::default()
    });
    table.raw(Cluster, "c", "1");
    table.raw(Endpoint, "c", "1");
    table.raw(Route, "r", "1");
    server.on_request(world(Cluster, &[], None));
    server.on_request(world(Route, &["r"], None));
    let clusters = server.poll(&table).remove(0);
    server.on_request(world(Cluster, &[], Some(&clusters)));
    assert!(server.poll(&table).is_empty());
    server.on_request(world(Endpoint, &["c"], None));
    let endpoints = server.poll(&table).remove(0);
    assert!(server.poll(&table).is_empty());
    server.on_request(world(Endpoint, &["c"], Some(&endpoints)));
    assert_eq!(server.poll(&table)[0].type_url, Route.type_url());
    // Changed: sent again, and waited for again.
    table.raw(Cluster, "c", "2");
    let again = server.poll(&table);
    assert_eq!(
        again.iter().map(contents).collect::<Vec<_>>(),
        [["2"], ["1"]]
    );
}

fn world(ty: ResourceType, names: &[&str], last: Option<&DiscoveryResponse>) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: ty.type_url().to_owned(),
        resource_names: names.iter().map(|n| (*n).to_owned()).collect(),
        version_info: last.map(|r| r.version_info.clone()).unwrap_or_default(),
        response_nonce: last.map(|r| r.nonce.clone()).unwrap_or_default(),
        ..DiscoveryRequest::default()
    }
}

/// The contents, which in these tests are versions.
fn contents(response: &DiscoveryResponse) -> Vec<String> {
    response
        .resources
        .iter()
        .map(|any| String::from_utf8(any.value.clone()).unwrap())
        .collect()
}

#[test]
fn sotw_clusters_are_always_whole_and_endpoints_are_not() {
    use ResourceType::{Cluster, Endpoint};
    let table = Table::default();
    let mut server = SotwSession::new(Options::default());
    for (name, version) in [("a", "1"), ("b", "2")] {
        table.raw(Cluster, name, version);
        table.raw(Endpoint, name, version);
    }
    server.on_request(world(Cluster, &[], None));
    server.on_request(world(Endpoint, &["a", "b"], None));
    let first = server.poll(&table);
    assert_eq!(
        first.iter().map(contents).collect::<Vec<_>>(),
        [["1", "2"], ["1", "2"]]
    );
    server.on_request(world(Cluster, &[], Some(&first[0])));
    server.on_request(world(Endpoint, &["a", "b"], Some(&first[1])));
    assert!(server.poll(&table).is_empty());
    assert!(server.status().iter().all(|s| s.acked.is_some()));
    table.raw(Cluster, "b", "3");
    table.raw(Endpoint, "b", "3");
    let second = server.poll(&table);
    assert_eq!(contents(&second[0]), ["1", "3"]);
    assert_eq!(contents(&second[1]), ["3"]);
}

#[test]
fn sotw_keeps_a_removed_cluster_until_the_rest_has_arrived() {
    use ResourceType::{Cluster, Route};
    let table = Table::default();
    let mut server = SotwSession::new(Options::default());
    table.raw(Cluster, "old", "old");
    table.raw(Route, "r", "1");
    server.on_request(world(Cluster, &[], None));
    server.on_request(world(Route, &["r"], None));
    let first = server.poll(&table);
    server.on_request(world(Cluster, &[], Some(&first[0])));
    server.on_request(world(Route, &["r"], Some(&first[1])));
    table.remove(Cluster, "old");
    table.raw(Cluster, "new", "new");
    table.raw(Route, "r", "2");
    let second = server.poll(&table);
    assert_eq!(contents(&second[0]), ["new", "old"]);
    server.on_request(world(Cluster, &[], Some(&second[0])));
    assert!(server.poll(&table).is_empty());
    server.on_request(world(Route, &["r"], Some(&second[1])));
    let third = server.poll(&table);
    assert_eq!(contents(&third[0]), ["new"]);
    server.on_request(world(Cluster, &[], Some(&third[0])));
    table.remove(Cluster, "new");
    assert_eq!(contents(&server.poll(&table)[0]), Vec::<String>::new());
}

#[test]
fn sotw_reconnect_with_the_same_version_is_sent_nothing() {
    let table = Table::default();
    table.raw(ResourceType::Cluster, "a", "1");
    let mut server = SotwSession::new(Options::default());
    server.on_request(world(ResourceType::Cluster, &[], None));
    let first = server.poll(&table).remove(0);
    let mut again = world(ResourceType::Cluster, &[], Some(&first));
    again.response_nonce = String::new();
    let mut server = SotwSession::new(Options::default());
    server.on_request(again.clone());
    assert!(server.poll(&table).is_empty());
    table.raw(ResourceType::Cluster, "a", "2");
    assert_eq!(contents(&server.poll(&table)[0]), ["2"]);
    let mut server = SotwSession::new(Options::default());
    server.on_request(again);
    assert_eq!(contents(&server.poll(&table)[0]), ["2"]);
}

#[test]
fn sotw_names_that_come_and_go() {
    use ResourceType::Listener;
    let table = Table::default();
    table.raw(Listener, "a", "1");
    table.raw(Listener, "b", "2");
    let mut server = SotwSession::new(Options::default());
    server.on_request(world(Listener, &["a", "unknown"], None));
    let first = server.poll(&table).remove(0);
    assert_eq!(contents(&first), ["1"]);
    server.on_request(world(Listener, &["a", "b"], Some(&first)));
    let second = server.poll(&table).remove(0);
    assert_eq!(contents(&second), ["1", "2"]);
    // A stale nonce says nothing.
    server.on_request(world(Listener, &["a"], Some(&first)));
    assert!(server.poll(&table).is_empty());
    server.on_request(world(Listener, &["b"], Some(&second)));
    assert_eq!(contents(&server.poll(&table)[0]), ["2"]);
}

#[test]
fn sotw_text_of_a_foreign_refusal_is_shown_for_the_whole_response() {
    let table = Table::default();
    table.raw(ResourceType::Cluster, "a", "1");
    let mut server = SotwSession::new(Options::default());
    server.on_request(world(ResourceType::Cluster, &[], None));
    let first = server.poll(&table).remove(0);
    let mut nack = world(ResourceType::Cluster, &[], Some(&first));
    nack.version_info = String::new();
    nack.error_detail = Some(Status {
        code: 3,
        message: "do not like it".to_owned(),
        details: Vec::new(),
    });
    server.on_request(nack);
    assert!(server.poll(&table).is_empty(), "the same is not sent again");
    let status = &server.status()[0];
    assert_eq!(
        (status.refusal.as_deref(), status.acked.as_deref()),
        (Some("do not like it"), None)
    );
}

/// Releases are two minor versions apart at most, in either direction.
#[test]
fn what_one_side_does_not_know_yet_harms_nothing() {
    const FUTURE: &str = "type.googleapis.com/tasuki.xds.v1.Future";
    let (mut client, mut server, table) = pair();
    table.put(&routes("a", &["x"]));
    client.subscribe_all(ResourceType::ProxySettings);
    client.subscribe(ResourceType::Departure, "shop/cart-1");
    client.subscribe(ResourceType::Route, "a");
    // An older control plane has neither of the first two.
    let newer = [ResourceType::ProxySettings, ResourceType::Departure].map(|ty| ty.type_url());
    let mut unknown = 0;
    while let Some(mut request) = client.next_request() {
        if newer.contains(&request.type_url.as_str()) {
            request.type_url = FUTURE.to_owned();
            unknown += 1;
        }
        server.on_request(request);
    }
    assert_eq!(unknown, 2);
    assert_eq!(updated(&settle(&mut client, &mut server, &table).0), ["a"]);

    // A newer one sends what nobody has asked for.
    let unasked = DeltaDiscoveryResponse {
        type_url: FUTURE.to_owned(),
        nonce: "n".to_owned(),
        ..DeltaDiscoveryResponse::default()
    };
    assert!(client.on_response(unasked).is_empty());
    let refusal = client.next_request().unwrap();
    assert!(refusal.error_detail.is_some());
    server.on_request(refusal);
    table.put(&routes("a", &["y"]));
    assert_eq!(updated(&settle(&mut client, &mut server, &table).0), ["a"]);

    let mut server = SotwSession::new(Options::default());
    table.raw(ResourceType::Listener, "l", "1");
    let mut unknown = world(ResourceType::Listener, &["l"], None);
    FUTURE.clone_into(&mut unknown.type_url);
    server.on_request(unknown);
    assert!(server.poll(&table).is_empty());
    server.on_request(world(ResourceType::Listener, &["l"], None));
    assert_eq!(contents(&server.poll(&table)[0]), ["1"]);
}
