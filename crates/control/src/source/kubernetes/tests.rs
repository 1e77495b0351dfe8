//! The source from end to end: an API server in memory, virtual time, what is declared in the end.

use serde_json::{Value, json};
use tasuki_resources::Kind;

use super::*;
use api_server::ApiServer;

mod api_server;
mod same;

/// More than all waiting together, in virtual time.
const LONG: Duration = Duration::from_secs(120);

fn service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]},
    })
}

fn policy(name: &str) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "shop"}, "spec": {},
    })
}

fn pod(phase: &str, started: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {"containers": [{"name": "app"}]},
        "status": {"phase": phase, "podIP": "10.1.0.1", "startTime": started},
    })
}

struct Source(channel::Receiver<Arc<Objects>>);

impl Source {
    async fn of(server: &ApiServer) -> Self {
        let client = server.client();
        Self(timeout(LONG, follow(&client)).await.expect("all kinds"))
    }

    fn files(&self) -> Vec<String> {
        let objects = self.0.borrow();
        objects.objects.iter().map(|s| s.file.to_string()).collect()
    }

    /// Until these are declared, and problems with these words and no others.
    async fn declares(&mut self, files: &[&str], problems: &[&str]) {
        let wanted = |objects: &Arc<Objects>| {
            let found: Vec<&str> = objects.objects.iter().map(|s| &*s.file).collect();
            let texts: Vec<String> = objects.problems.iter().map(ToString::to_string).collect();
            found == files
                && texts
                    .iter()
                    .all(|text| problems.iter().any(|p| text.contains(p)))
                && problems
                    .iter()
                    .all(|p| texts.iter().any(|text| text.contains(p)))
        };
        let reached = timeout(LONG, self.0.wait_for(wanted)).await.is_ok();
        assert!(reached, "{files:?} {problems:?}, but {:?}", self.0.borrow());
    }

    /// Nothing is declared anew, whatever time passes.
    async fn rests(&mut self) {
        self.0.borrow_and_update();
        let changed = timeout(LONG, self.0.changed()).await;
        assert!(changed.is_err(), "{:?}", self.0.borrow());
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_declared_before_every_kind_is_listed() {
    let server = ApiServer::with_definitions();
    server.put(service("a", 80));
    server.refuse(Kind::Pod, Some(403));
    let client = server.client();
    let opened = timeout(LONG, follow(&client)).await;
    assert!(opened.is_err(), "pods are not known");
    server.refuse(Kind::Pod, None);
    assert_eq!(Source::of(&server).await.files(), ["services/shop/a"]);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_waited_for() {
    let server = ApiServer::new();
    server.go_away(true);
    let client = server.client();
    let opened = tokio::spawn(async move { follow(&client).await });
    tokio::time::sleep(LONG).await;
    assert!(!opened.is_finished());
    server.put(service("a", 80));
    server.go_away(false);
    let mut source = Source(timeout(LONG, opened).await.unwrap().unwrap());
    source.declares(&["services/shop/a"], &[]).await;
}

#[tokio::test(start_paused = true)]
async fn changes_that_the_mesh_does_not_use_are_none() {
    let server = ApiServer::with_definitions();
    server.put(pod("Running", "2026-01-01T00:00:00Z"));
    let mut source = Source::of(&server).await;
    let before = source.0.borrow().objects[0].object.clone();
    server.put(pod("Running", "2026-01-02T00:00:00Z"));
    source.rests().await;
    server.put(service("a", 80));
    source
        .declares(&["services/shop/a", "pods/shop/cart"], &[])
        .await;
    assert!(Arc::ptr_eq(&before, &source.0.borrow().objects[1].object));
    server.put(pod("Failed", "2026-01-02T00:00:00Z"));
    source.0.borrow_and_update();
    timeout(LONG, source.0.changed()).await.unwrap().unwrap();
    server.delete(Kind::Pod, "cart");
    source.declares(&["services/shop/a"], &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_may_come_later() {
    let server = ApiServer::new();
    let mut source = Source::of(&server).await;
    source.declares(&[], &[]).await;
    server.put(policy("guard"));
    source.rests().await;
    server.define(Kind::AuthorizationPolicy);
    source
        .declares(&["authorizationpolicies/shop/guard"], &[])
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_kind_takes_nothing_with_it() {
    let server = ApiServer::with_definitions();
    server.put(policy("guard"));
    server.put(policy("other"));
    let mut source = Source::of(&server).await;
    server.delete(Kind::AuthorizationPolicy, "other");
    source
        .declares(&["authorizationpolicies/shop/guard"], &[])
        .await;
    server.undefine(Kind::AuthorizationPolicy);
    let said = "CustomResourceDefinition was deleted";
    source
        .declares(&["authorizationpolicies/shop/guard"], &[said])
        .await;
    source.rests().await;
    server.put(policy("new"));
    server.define(Kind::AuthorizationPolicy);
    source
        .declares(&["authorizationpolicies/shop/new"], &[])
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_stuck_on_its_way_out_keeps_nobody_from_starting() {
    let server = ApiServer::with_definitions();
    server.put(policy("guard"));
    server.stick(Kind::AuthorizationPolicy);
    server.stick(Kind::Gateway);
    server.refuse(Kind::Gateway, Some(404));
    let mut source = Source::of(&server).await;
    let said = "authorizationpolicies.security.istio.io";
    let empty = "gateways.networking.istio.io";
    source
        .declares(&["authorizationpolicies/shop/guard"], &[said, empty])
        .await;
    server.put(policy("new"));
    server.refuse(Kind::Gateway, None);
    server.define(Kind::Gateway);
    server.define(Kind::AuthorizationPolicy);
    let both = [
        "authorizationpolicies/shop/guard",
        "authorizationpolicies/shop/new",
    ];
    source.declares(&both, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn what_may_no_longer_be_read_is_kept() {
    let server = ApiServer::with_definitions();
    server.put(service("a", 80));
    let mut source = Source::of(&server).await;
    server.refuse(Kind::Service, Some(403));
    server.cut();
    source
        .declares(
            &["services/shop/a"],
            &["services: error: the API server does not let"],
        )
        .await;
    source.rests().await;
    server.refuse(Kind::Service, None);
    source.declares(&["services/shop/a"], &[]).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_is_made_up_for() {
    let server = ApiServer::with_definitions();
    server.put(service("a", 80));
    server.put(service("b", 80));
    let mut source = Source::of(&server).await;
    server.go_away(true);
    let files = ["services/shop/a", "services/shop/b"];
    source.declares(&files, &["cannot be reached"]).await;
    server.delete(Kind::Service, "a");
    server.put(service("c", 80));
    server.compact();
    source.rests().await;
    server.go_away(false);
    source
        .declares(&["services/shop/b", "services/shop/c"], &[])
        .await;
    server.put(service("d", 80));
    source
        .declares(
            &["services/shop/b", "services/shop/c", "services/shop/d"],
            &[],
        )
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_api_server_without_streaming_lists_will_do() {
    let server = ApiServer::with_definitions();
    server.without_streaming();
    server.put(service("a", 80));
    server.put(policy("guard"));
    let mut source = Source::of(&server).await;
    let both = ["services/shop/a", "authorizationpolicies/shop/guard"];
    source.declares(&both, &[]).await;
    server.delete(Kind::Service, "a");
    source.declares(&both[1..], &[]).await;
}
