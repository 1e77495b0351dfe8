//! Replicas tell each other which departures their clients know of: over 15012, each by the control plane's own identity.
//!
//! Whoever shows that identity is one of us: certificates of Pods say for which Pod they are, and ours does not.

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tasuki_identity::{Error, ServerIdentity, SpiffeId, client_config};
use tasuki_runtime::Backoff;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, Sender};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use super::Departures;
use super::others::Told;
use super::proto::departures_client::DeparturesClient;
use super::proto::departures_server;
pub use super::proto::departures_server::DeparturesServer;
use super::proto::{SettledRequest, SettledResponse};
use crate::ads::{ConnectionFacts, Presented};
use crate::ca::{Authority, server_tls};

/// For a connection, and for the first answer on it.
const ANSWER: Duration = Duration::from_secs(2);
/// How often a connection is asked whether it lives, and how long it has to say so: a departure waits for a silent replica.
const ALIVE: Duration = Duration::from_secs(2);
/// Failures on end that are said: one that has just ended is declared for a moment longer.
const WORTH_A_WORD: u32 = 5;
/// Pods of one message: about 100 KiB.
const CHUNK: usize = 1_000;
/// Changes within this time are told together.
const GATHERED: Duration = Duration::from_millis(50);

/// Answers the other replicas.
pub struct Replicas {
    departures: Arc<Departures>,
    /// Names this process.
    me: String,
    control: SpiffeId,
}

impl Replicas {
    /// # Errors
    /// Never with a trust domain that the authority has.
    pub fn new(
        departures: Arc<Departures>,
        me: &str,
        authority: &Authority,
    ) -> Result<Self, Error> {
        Ok(Self {
            departures,
            me: me.to_owned(),
            control: server_tls::identity(authority.trust_domain())?,
        })
    }

    pub fn into_server(self) -> DeparturesServer<Self> {
        DeparturesServer::new(self)
    }

    fn check(&self, connection: &ConnectionFacts) -> Result<(), Status> {
        let peer = connection.peer.as_ref();
        match peer.filter(|peer| connection.tls && peer.pod.is_none()) {
            Some(peer) if peer.id == self.control => Ok(()),
            _ => Err(Status::permission_denied(
                "for replicas of the control plane only",
            )),
        }
    }
}

#[tonic::async_trait]
impl departures_server::Departures for Replicas {
    type SettledStream = Pin<Box<dyn Stream<Item = Result<SettledResponse, Status>> + Send>>;

    async fn settled(
        &self,
        request: Request<SettledRequest>,
    ) -> Result<Response<Self::SettledStream>, Status> {
        let connection = Presented::of(&request).connection;
        self.check(&connection)?;
        connection.standing.prove();
        connection.standing.know();
        let (sender, receiver) = mpsc::channel(2);
        tokio::spawn(tell(self.departures.clone(), self.me.clone(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// All that has settled, then what changes, until nobody listens.
async fn tell(
    departures: Arc<Departures>,
    me: String,
    listener: Sender<Result<SettledResponse, Status>>,
) {
    let mut changes = departures.settled_changes();
    let mut told = BTreeSet::new();
    loop {
        changes.borrow_and_update();
        let settled = departures.settled();
        let new: Vec<String> = settled.difference(&told).cloned().collect();
        let gone: Vec<String> = told.difference(&settled).cloned().collect();
        let count = new.len().max(gone.len()).div_ceil(CHUNK).max(1);
        let (mut new, mut gone) = (new.into_iter(), gone.into_iter());
        for number in 1..=count {
            let message = SettledResponse {
                replica: me.clone(),
                settled: new.by_ref().take(CHUNK).collect(),
                forgotten: gone.by_ref().take(CHUNK).collect(),
                complete: number == count,
            };
            if listener.send(Ok(message)).await.is_err() {
                return;
            }
        }
        told = settled;
        // All that is remembered is looked through, which a rollout of thousands of Pods must not ask for at each of them.
        sleep(GATHERED).await;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return;
            },
            () = listener.closed() => return,
        }
    }
}

/// How the others are reached.
#[derive(Clone)]
pub struct Asking {
    departures: Arc<Departures>,
    authority: Authority,
    me: String,
}

impl Asking {
    pub fn new(departures: Arc<Departures>, me: &str, authority: &Authority) -> Self {
        Self {
            departures,
            authority: authority.clone(),
            me: me.to_owned(),
        }
    }

    /// Listens to every replica that there is, for ever; to be spawned.
    pub async fn run(self) {
        let mut declared = self.departures.replicas();
        let mut asked = BTreeSet::new();
        let mut tasks = JoinSet::new();
        loop {
            let wanted = declared.borrow_and_update().clone();
            for address in wanted {
                if asked.insert(address) {
                    tasks.spawn(self.clone().listen(address));
                }
            }
            tokio::select! {
                changed = declared.changed() => if changed.is_err() {
                    return;
                },
                Some(ended) = tasks.join_next() => {
                    // This process itself is never asked again.
                    if let Ok(Some(address)) = ended {
                        asked.remove(&address);
                    }
                }
            }
        }
    }

    /// To one, for as long as it is declared or speaks. Returns where it was, unless that is here.
    async fn listen(self, address: SocketAddr) -> Option<SocketAddr> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), 0.3);
        let mut failures = 0;
        while self.departures.has_replica(address) {
            match self.ask(address).await {
                Ok(stream) => {
                    failures = 0;
                    let told = self.hear(address, stream).await;
                    self.departures.lost(address);
                    match told {
                        Told::Oneself => return None,
                        Told::News => backoff.reset(),
                        Told::TooMuch => tracing::error!(%address, "a replica tells too much"),
                    }
                }
                Err(reason) => {
                    failures += 1;
                    if failures == WORTH_A_WORD {
                        tracing::warn!(%address, reason, "a replica cannot be asked about departures; its clients are given 3 s");
                    }
                }
            }
            sleep(backoff.next_delay()).await;
        }
        Some(address)
    }

    async fn ask(&self, address: SocketAddr) -> Result<Streaming<SettledResponse>, String> {
        let asked = async {
            let config = self.config().map_err(|error| error.to_string())?;
            let channel = channel(address, config).await;
            let channel = channel.map_err(|error| chain(&error))?;
            let mut client = DeparturesClient::new(channel);
            let answer = client.settled(SettledRequest {}).await;
            Ok(answer.map_err(|status| status.to_string())?.into_inner())
        };
        timeout(ANSWER, asked)
            .await
            .unwrap_or_else(|_| Err("no answer".to_owned()))
    }

    /// With a certificate of this moment: connections are few, and last.
    fn config(&self) -> Result<Arc<ClientConfig>, Error> {
        let control = server_tls::identity(self.authority.trust_domain())?;
        let own = self.authority.server_certificate(&control, &[])?;
        let expected = ServerIdentity::AnyOf(vec![control]);
        client_config(Some(&own), &self.authority.roots(), expected, &[b"h2"])
    }

    /// Until it ends, or says what ends it.
    async fn hear(&self, address: SocketAddr, mut stream: Streaming<SettledResponse>) -> Told {
        let mut coming = Some(HashSet::new());
        while let Ok(Some(message)) = stream.message().await {
            let told = self
                .departures
                .told_by(address, &self.me, &mut coming, message);
            if told != Told::News {
                return told;
            }
        }
        Told::News
    }
}

async fn channel(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> Result<Channel, tonic::transport::Error> {
    let connect = move |_| {
        let connector = TlsConnector::from(config.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let stream = connector.connect(address.ip().into(), stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    };
    Endpoint::from_shared(format!("http://{address}"))?
        .http2_keep_alive_interval(ALIVE)
        .keep_alive_timeout(ALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector(tower::service_fn(connect))
        .await
}

/// tonic's own words are only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

#[cfg(test)]
mod tests;
