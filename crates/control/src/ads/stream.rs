//! One stream: a task that reacts to the client's requests and to changes of the catalog.

use std::sync::Arc;
use std::time::Duration;

use tasuki_xds::codec::Dialect;
use tasuki_xds::proto::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Node,
};
use tasuki_xds::server::{DeltaSession, Options, SotwSession, View};
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::{Status, Streaming};
use tracing::{debug, info};

use super::clients::{Listed, Session};
use super::service::{Delta, Sotw};
use super::{Caller, Catalog, Client, ClientKind, Clients, NsName, Presented, ProvenPod};
use crate::departures::Departures;
use crate::snapshot::depends::Interest;
use crate::timer::reach;

/// A client that has authenticated and says nothing is not kept.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// A watch tells of a new Pod within milliseconds, a relist of a large cluster within seconds.
const NEWS: Duration = Duration::from_secs(5);

/// Names of one type that an Envoy may ask for: it names the endpoints of every cluster it was sent.
const ENVOY_NAMES: usize = 65_536;

/// What differs between the two methods.
pub(super) trait Protocol: Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;

    fn node(request: &mut Self::Request) -> Option<Node>;
    fn session(options: Options) -> Session;
    fn on_request(session: &mut Session, request: Self::Request);
    fn poll(session: &mut Session, view: &dyn View) -> Vec<Self::Response>;
}

/// How long listeners and routes are held back for clusters that an Envoy does not use yet: some clients
/// never ask for endpoints.
const HOLD: Duration = Duration::from_secs(5);

impl Protocol for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn node(request: &mut Self::Request) -> Option<Node> {
        request.node.take()
    }

    fn session(options: Options) -> Session {
        Session::Delta(DeltaSession::new(options))
    }

    fn on_request(session: &mut Session, request: Self::Request) {
        if let Session::Delta(session) = session {
            session.on_request(request);
        }
    }

    fn poll(session: &mut Session, view: &dyn View) -> Vec<Self::Response> {
        match session {
            Session::Delta(session) => session.poll(view),
            Session::Sotw(_) => Vec::new(),
        }
    }
}

impl Protocol for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn node(request: &mut Self::Request) -> Option<Node> {
        request.node.take()
    }

    fn session(options: Options) -> Session {
        Session::Sotw(SotwSession::new(options))
    }

    fn on_request(session: &mut Session, request: Self::Request) {
        if let Session::Sotw(session) = session {
            session.on_request(request);
        }
    }

    fn poll(session: &mut Session, view: &dyn View) -> Vec<Self::Response> {
        match session {
            Session::Sotw(session) => session.poll(view),
            Session::Delta(_) => Vec::new(),
        }
    }
}

/// Serves one stream until either side ends it.
///
/// # Errors
/// What the client is told when it is refused: by [`Client::identify`], or because it said nothing.
pub(super) async fn serve<P: Protocol>(
    catalog: Arc<dyn Catalog>,
    clients: Arc<Clients>,
    presented: Presented,
    caller: Option<Caller>,
    mut requests: Streaming<P::Request>,
    responses: &Sender<Result<P::Response, Status>>,
) -> Result<(), Status> {
    let first = timeout(FIRST_REQUEST, requests.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no request within 10 s"))??;
    let Some(mut request) = first else {
        return Ok(());
    };
    let node = P::node(&mut request)
        .ok_or_else(|| Status::invalid_argument("the first request has no node"))?;
    // Subscribed before the first view, so that no change is missed in between.
    let changes = catalog.changes();
    if let Some(proven) = caller.as_ref().and_then(|caller| caller.pod.as_ref()) {
        until_known(catalog.as_ref(), proven).await;
    }
    let client = Client::identify(&node, caller, &presented, catalog.as_ref())?;
    presented.connection.standing.prove();
    let remote = presented.connection.remote.map(|remote| remote.to_string());
    info!(
        node = client.node_id,
        kind = client.kind.word(),
        remote,
        "ADS stream opened"
    );
    let listed = clients.connect(client.clone(), P::session(options(&client)), remote);
    P::on_request(&mut listed.record.session(), request);
    follow::<P>(catalog.as_ref(), &listed, changes, requests, responses).await?;
    info!(node = client.node_id, "ADS stream closed");
    Ok(())
}

/// A Pod that is proven to live may be newer than what the catalog was told; without its labels nothing can be said to it.
async fn until_known(catalog: &dyn Catalog, proven: &ProvenPod) {
    let mut changes = catalog.changes();
    let known = async {
        loop {
            changes.borrow_and_update();
            let facts = catalog.pod(&proven.name);
            if facts.is_some_and(|facts| facts.uid.is_none_or(|uid| uid == proven.uid)) {
                return;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    // Without it, identification says what is wrong.
    let _ = timeout(NEWS, known).await;
}

/// Keeps an identified client up to date until either side ends the stream.
async fn follow<P: Protocol>(
    catalog: &dyn Catalog,
    listed: &Listed,
    mut changes: watch::Receiver<u64>,
    mut requests: Streaming<P::Request>,
    responses: &Sender<Result<P::Response, Status>>,
) -> Result<(), Status> {
    let mut held_since = None;
    let departures = catalog.departures();
    let mut departed = Departed::of(departures.as_deref(), &listed.record.client());
    // Whoever had not answered yet, and goes, is waited for no longer.
    let _gone = departures.as_ref().map(Waking);
    let mut looked = Looked::default();
    loop {
        if !looked.passes(catalog, listed) {
            departed.looks();
            looked = push::<P>(catalog, listed, responses).await?;
        }
        if let Some(departures) = &departures {
            departures.wake();
        }
        let holds = listed.record.session().holds();
        held_since = holds.then(|| held_since.unwrap_or_else(Instant::now));
        tokio::select! {
            request = requests.message() => match request {
                Ok(Some(mut request)) => {
                    // Repeated on every request by some clients, and never different.
                    let _ = P::node(&mut request);
                    P::on_request(&mut listed.record.session(), request);
                    looked = Looked::default();
                }
                Ok(None) => return Ok(()),
                Err(status) => {
                    debug!(%status, "ADS stream broken");
                    return Ok(());
                }
            },
            changed = changes.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            () = departed.acknowledged() => looked = Looked::default(),
            () = reach(held_since.map(|since| since + HOLD)) => {
                listed.record.session().release();
                held_since = None;
                looked = Looked::default();
            }
            () = responses.closed() => return Ok(()),
        }
    }
}

/// Up to which state the client has been looked after, if nothing but the catalog has changed since.
#[derive(Default)]
struct Looked {
    at: Option<u64>,
    /// Worked out when it is first needed.
    interest: Option<Interest>,
}

impl Looked {
    /// Whether the present state has nothing new for the client: most changes concern few.
    fn passes(&mut self, catalog: &dyn Catalog, listed: &Listed) -> bool {
        let Some(at) = self.at else {
            return false;
        };
        let mut session = listed.record.session();
        let interest = self
            .interest
            .get_or_insert_with(|| catalog.interest(&listed.record.client(), &session.names()));
        let Some(present) = catalog.unchanged(at, interest) else {
            return false;
        };
        session.carry(at, present);
        self.at = Some(present);
        true
    }
}

/// Looks for departures that this stream's end completes.
struct Waking<'a>(&'a Arc<Departures>);

impl Drop for Waking<'_> {
    fn drop(&mut self) {
        self.0.wake();
    }
}

/// The departure of the client's own pod.
enum Departed<'a> {
    Nobodys,
    Of {
        departures: &'a Departures,
        pod: NsName,
        told: watch::Receiver<u64>,
        /// It was acknowledged when the client was last looked after.
        known: bool,
    },
}

impl<'a> Departed<'a> {
    fn of(departures: Option<&'a Departures>, client: &Client) -> Self {
        match (departures, &client.kind) {
            (Some(departures), ClientKind::Sidecar { pod }) => Departed::Of {
                departures,
                pod: pod.clone(),
                told: departures.told(),
                known: false,
            },
            _ => Departed::Nobodys,
        }
    }

    /// The client is looked after now. That a departure has ended, or begun anew, is a change of the catalog and leads here too.
    fn looks(&mut self) {
        if let Departed::Of {
            departures,
            pod,
            known,
            ..
        } = self
        {
            *known = departures.of(pod).acknowledged;
        }
    }

    /// Resolves when it has been acknowledged since: of all that changes, this alone is no change of the catalog.
    async fn acknowledged(&mut self) {
        let Departed::Of {
            departures,
            pod,
            told,
            known: false,
        } = self
        else {
            return std::future::pending().await;
        };
        while told.changed().await.is_ok() {
            if departures.of(pod).acknowledged {
                return;
            }
        }
        std::future::pending().await
    }
}

/// Sends what is due. A sidecar whose pod has been deleted goes on as before for as long as the catalog remembers the pod
/// (`mesh::departed`), and then loses its stream: nobody is to wait for what may have ended long ago.
async fn push<P: Protocol>(
    catalog: &dyn Catalog,
    listed: &Listed,
    responses: &Sender<Result<P::Response, Status>>,
) -> Result<Looked, Status> {
    let known = listed.record.client();
    let (client, due, generation) = {
        let (client, view) = catalog.look(&known)?;
        let due = P::poll(&mut listed.record.session(), view.as_ref());
        (client, due, view.generation())
    };
    if client != known {
        listed.record.set_client(client);
    }
    for response in due {
        if responses.send(Ok(response)).await.is_err() {
            break;
        }
    }
    Ok(Looked {
        at: Some(generation),
        interest: None,
    })
}

fn options(client: &Client) -> Options {
    let envoy = matches!(client.dialect, Dialect::Envoy { .. });
    let gateway = matches!(
        client.kind,
        ClientKind::EnvoyGateway | ClientKind::TasukiGateway { .. }
    );
    let max_names = if gateway {
        ENVOY_NAMES
    } else {
        Options::default().max_names
    };
    Options {
        max_names,
        warm_clusters: envoy,
        ..Options::default()
    }
}

#[cfg(test)]
mod tests;
