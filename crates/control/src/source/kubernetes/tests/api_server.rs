//! As much of an API server as a watch sees, in memory: lists, watches, definitions, refusals.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tasuki_kubernetes::watched::WATCHED;
use tasuki_resources::Kind;
use tokio::sync::mpsc;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

#[derive(Clone, Default)]
pub struct ApiServer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// By plural, then by name.
    objects: HashMap<String, BTreeMap<String, Value>>,
    /// Definitions by name; true while it is being deleted.
    definitions: HashMap<String, bool>,
    /// What is answered about a plural instead.
    refused: HashMap<String, u16>,
    /// Versions before this one are forgotten.
    compacted: u64,
    no_streaming: bool,
    away: bool,
    version: u64,
    watches: Vec<(String, mpsc::UnboundedSender<Bytes>)>,
}

pub fn plural(kind: Kind) -> &'static str {
    WATCHED.iter().find(|w| w.kind == kind).unwrap().plural
}

impl ApiServer {
    /// One without custom kinds.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that has them all.
    pub fn with_definitions() -> Self {
        let server = Self::default();
        for watched in WATCHED.iter().filter(|w| w.custom) {
            server.define(watched.kind);
        }
        server
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn client(&self) -> Client {
        let server = self.clone();
        let answer = move |request: Request<Body>| {
            let answer = server.state().answer(&request);
            std::future::ready(answer)
        };
        Client::new(tower::service_fn(answer), "default")
    }

    pub fn define(&self, kind: Kind) {
        let watched = WATCHED.iter().find(|w| w.kind == kind).unwrap();
        self.state().definitions.insert(watched.full_name(), false);
    }

    /// A definition that is being deleted for as long as somebody's finalizer holds an object.
    pub fn stick(&self, kind: Kind) {
        let watched = WATCHED.iter().find(|w| w.kind == kind).unwrap();
        self.state().definitions.insert(watched.full_name(), true);
    }

    /// As `kubectl delete crd` does: marked, then its objects one by one, then it is gone.
    pub fn undefine(&self, kind: Kind) {
        let watched = WATCHED.iter().find(|w| w.kind == kind).unwrap();
        self.state().definitions.insert(watched.full_name(), true);
        let objects = self.state().objects.remove(watched.plural);
        for (_, object) in objects.unwrap_or_default() {
            self.state().tell(watched.plural, "DELETED", &object);
        }
        self.state().definitions.remove(&watched.full_name());
        self.cut();
    }

    pub fn put(&self, mut object: Value) {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        let watched = WATCHED.iter().find(|w| w.kind.as_str() == kind).unwrap();
        let mut state = self.state();
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        let name = name(&object);
        let objects = state.objects.entry(watched.plural.to_owned()).or_default();
        let known = objects.insert(name, object.clone()).is_some();
        state.tell(
            watched.plural,
            if known { "MODIFIED" } else { "ADDED" },
            &object,
        );
    }

    pub fn delete(&self, kind: Kind, name: &str) {
        let mut state = self.state();
        state.version += 1;
        let object = state
            .objects
            .get_mut(plural(kind))
            .and_then(|o| o.remove(name));
        state.tell(plural(kind), "DELETED", &object.unwrap());
    }

    /// Ends all watches.
    pub fn cut(&self) {
        self.state().watches.clear();
    }

    /// What has happened until now can no longer be told.
    pub fn compact(&self) {
        let mut state = self.state();
        state.version += 1;
        state.compacted = state.version;
    }

    pub fn refuse(&self, kind: Kind, status: Option<u16>) {
        let mut state = self.state();
        match status {
            Some(status) => state.refused.insert(plural(kind).to_owned(), status),
            None => state.refused.remove(plural(kind)),
        };
    }

    pub fn without_streaming(&self) {
        self.state().no_streaming = true;
    }

    pub fn go_away(&self, away: bool) {
        self.state().away = away;
        self.cut();
    }
}

impl State {
    fn answer(&mut self, request: &Request<Body>) -> Result<Answer, std::io::Error> {
        if self.away {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        let path = request.uri().path();
        let last = path.rsplit('/').next().unwrap_or_default().to_owned();
        if path.contains("/customresourcedefinitions/") {
            return Ok(self.definition(&last));
        }
        let custom = WATCHED.iter().find(|w| w.plural == last && w.custom);
        if custom.is_some_and(|w| !self.definitions.contains_key(&w.full_name())) {
            return Ok(status(404));
        }
        if let Some(code) = self.refused.get(&last) {
            return Ok(status(*code));
        }
        let query: HashMap<&str, &str> = request
            .uri()
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        Ok(match query.get("watch") {
            None => self.list(&last),
            Some(_) if query.contains_key("sendInitialEvents") => match self.no_streaming {
                true => status(422),
                false => self.watch(&last, None),
            },
            Some(_) => self.watch(&last, query.get("resourceVersion").copied()),
        })
    }

    fn definition(&self, name: &str) -> Answer {
        let Some(leaving) = self.definitions.get(name) else {
            return status(404);
        };
        let deleted = leaving.then_some("2026-01-01T00:00:00Z");
        let versions = ["v1", "v1alpha1"].map(|name| json!({"name": name, "served": true}));
        json_body(&json!({
            "metadata": {"name": name, "deletionTimestamp": deleted},
            "spec": {"versions": versions},
        }))
    }

    /// Items say neither kind nor version, as with the real one.
    fn list(&self, plural: &str) -> Answer {
        let objects = self.objects.get(plural).into_iter().flatten();
        let items: Vec<Value> = objects
            .map(|(_, object)| {
                let mut object = object.clone();
                if let Value::Object(fields) = &mut object {
                    fields.remove("kind");
                    fields.remove("apiVersion");
                }
                object
            })
            .collect();
        let metadata = json!({"resourceVersion": self.version.to_string()});
        json_body(
            &json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items}),
        )
    }

    fn watch(&mut self, plural: &str, from: Option<&str>) -> Answer {
        let (sender, receiver) = mpsc::unbounded_channel();
        match from {
            None => {
                for object in self.objects.get(plural).into_iter().flatten() {
                    sender.send(event("ADDED", object.1)).unwrap();
                }
                let end = json!({"k8s.io/initial-events-end": "true"});
                let version = self.version.to_string();
                let mark = json!({
                    "apiVersion": "v1", "kind": "x",
                    "metadata": {"resourceVersion": version, "annotations": end},
                });
                sender.send(event("BOOKMARK", &mark)).unwrap();
            }
            Some(version) if version.parse::<u64>().unwrap() < self.compacted => {
                let gone = json!({"kind": "Status", "code": 410, "reason": "Expired"});
                sender.send(event("ERROR", &gone)).unwrap();
            }
            Some(_) => {}
        }
        self.watches.push((plural.to_owned(), sender));
        let frames = stream::unfold(receiver, async |mut receiver| {
            let bytes = receiver.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(bytes)), receiver))
        });
        Response::new(StreamBody::new(frames).boxed_unsync())
    }

    fn tell(&mut self, plural: &str, what: &str, object: &Value) {
        let event = event(what, object);
        self.watches
            .retain(|(of, sender)| of != plural || sender.send(event.clone()).is_ok());
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn event(what: &str, object: &Value) -> Bytes {
    let event = json!({"type": what, "object": object});
    Bytes::from(format!("{event}\n"))
}

fn json_body(value: &Value) -> Answer {
    Response::new(Full::from(value.to_string()).boxed_unsync())
}

fn status(code: u16) -> Answer {
    let body =
        json!({"kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": ""});
    let mut response = json_body(&body);
    *response.status_mut() = code.try_into().unwrap();
    response
}
