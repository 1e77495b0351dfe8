//! The itinerary of raw bytes: authorize | balance > connect > copy both ways.
//!
//! Balancing is per connection. A failed connect is tried at another endpoint, since nothing was sent; a
//! connection that cannot be made, or breaks, ends the client's with a reset, as it would without a proxy.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tasuki_xds::model::cluster::Discovery;
use tokio::io::AsyncRead;
use tokio::net::TcpStream;

use crate::balance;
use crate::cluster::{Cluster, Picked};
use crate::connection::{Connection, Direction};
use crate::eject::Outcome;
use crate::error::{Error, Flag, RetryClass};
use crate::inbound::Chain;
use crate::observe::TcpRecord;
use crate::state::TcpTarget;
use crate::stream::Stream;
use crate::upstream::{self, Connected};
use crate::worker::Worker;

mod copy;

use self::copy::{Broken, Progress, copy_both};

/// Closed after this long without a byte either way, unless the listener says otherwise (Envoy's default).
const IDLE: Duration = Duration::from_secs(3600);

/// Endpoints that are tried before the connection fails.
const TRIES: usize = 3;

/// Connections to original destinations that a worker opens at one time; more are refused with `UO`.
const MOST_DIALLING: usize = 1_024;

/// How often a long connection's byte counters are brought up to date.
const REPORT: Duration = Duration::from_secs(15);

/// An upstream connection that nothing was written to yet.
#[derive(Debug)]
pub struct Leg {
    connected: Connected,
    picked: Picked,
    cluster: Arc<Cluster>,
    /// What the upstream said before the client did.
    said: BytesMut,
}

impl Leg {
    /// The upstream's side and where to put what it says first.
    pub fn listen(&mut self) -> (&mut (impl AsyncRead + Unpin + use<>), &mut BytesMut) {
        (&mut self.connected.io, &mut self.said)
    }
}

/// Where the bytes of a connection go.
#[derive(Clone, Debug)]
pub enum Target {
    /// One of some clusters, by weight.
    Clusters(Arc<TcpTarget>),
    /// The application beside this proxy.
    Application(Arc<Chain>),
    /// Nowhere: the destination is unknown and unknown ones are refused, or the control plane is away.
    Nowhere(Error),
}

/// Connects to where the bytes of `conn` go, if they may.
pub async fn connect(
    worker: &Rc<Worker>,
    conn: &Connection,
    target: &Target,
) -> Result<Leg, Error> {
    match target {
        Target::Clusters(target) => {
            let cluster = target
                .pick(balance::random())
                .map_err(|_| Error::NoCluster(target.stat_prefix.clone()))?;
            dial(worker, conn, cluster).await
        }
        Target::Application(chain) => {
            let permitted = chain.authorizer.check_tcp(&conn.source());
            permitted.map_err(|denied| Error::Denied(denied.policy))?;
            dial(worker, conn, &chain.cluster).await
        }
        Target::Nowhere(error) => Err(error.clone()),
    }
}

async fn dial(
    worker: &Rc<Worker>,
    conn: &Connection,
    cluster: &Arc<Cluster>,
) -> Result<Leg, Error> {
    let destination = match conn.direction {
        Direction::Inbound => conn.application,
        Direction::Outbound | Direction::Gateway => conn.original_dst,
    };
    // As for requests: a cluster that has just been named may still wait for its endpoints.
    cluster.endpoints_known().await;
    let mut tried = Vec::new();
    let (tries, _dialling) = match cluster.config.discovery {
        // There is one original destination, and nothing else to try.
        Discovery::OriginalDestination { .. } => (1, Some(Dialling::begin()?)),
        Discovery::Eds { .. } | Discovery::Dns { .. } | Discovery::Static(_) => (TRIES, None),
    };
    loop {
        let purpose = |_: &_| upstream::Use::Tcp;
        let picked = upstream::pick(worker, cluster, purpose, &tried, Some(destination))?;
        match upstream::connect_tcp(worker, cluster, &picked.endpoint).await {
            Ok(connected) => {
                cluster.observe(&picked.endpoint, Outcome::Success);
                return Ok(Leg {
                    connected,
                    picked,
                    cluster: cluster.clone(),
                    said: BytesMut::new(),
                });
            }
            Err(error) => {
                let unconnected = error.retry_class() == RetryClass::ConnectFailure;
                if unconnected {
                    cluster.observe(&picked.endpoint, Outcome::LocalOrigin);
                }
                let last = tried.contains(&picked.endpoint.id) || tried.len() + 1 >= tries;
                if !unconnected || last {
                    return Err(error);
                }
                tried.push(picked.endpoint.id);
            }
        }
    }
}

thread_local! {
    static DIALLING: Cell<usize> = const { Cell::new(0) };
}

/// One of the worker's connections to an original destination that are being opened. They are bounded: an
/// application that scans a network would otherwise pile up one wait per address.
struct Dialling;

impl Dialling {
    fn begin() -> Result<Self, Error> {
        if DIALLING.get() >= MOST_DIALLING {
            return Err(Error::Overflow("connections being opened"));
        }
        DIALLING.set(DIALLING.get() + 1);
        Ok(Self)
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        DIALLING.set(DIALLING.get() - 1);
    }
}

/// Carries the connection's bytes to `target`, or over `leg` where one is connected already.
pub async fn proxy(
    worker: Rc<Worker>,
    conn: Rc<Connection>,
    stream: Stream,
    target: Target,
    leg: Option<Box<Leg>>,
) {
    let mut record = record(&worker, &conn);
    if let Target::Application(chain) = &target {
        record.destination = chain.destination.clone();
    }
    if conn.direction == Direction::Inbound && conn.identity().is_none() {
        worker.drain.serves_outsider();
    }
    // Raw bytes cannot be told to go elsewhere: a drain waits for them.
    let _activity = worker.drain.activity();
    let leg = match leg {
        Some(leg) => Ok(*leg),
        None => connect(&worker, &conn, &target).await,
    };
    match leg {
        Ok(leg) => carry(stream, leg, idle_timeout(&target), &mut record).await,
        Err(error) => {
            blame(&mut record, &error);
            reset(stream.socket());
        }
    }
}

async fn carry(mut stream: Stream, leg: Leg, idle: Duration, record: &mut TcpRecord) {
    let Leg {
        mut connected,
        picked,
        cluster,
        said,
    } = leg;
    describe(record, &picked, &cluster, connected.mutual_tls);
    let progress = Progress::default();
    let copied = {
        let copying = copy_both(
            &mut stream,
            &mut connected.io,
            Bytes::from(said),
            idle,
            &progress,
        );
        tokio::pin!(copying);
        loop {
            tokio::select! {
                copied = &mut copying => break copied,
                () = tokio::time::sleep(REPORT) => {
                    note(record, &progress);
                    record.flush();
                }
            }
        }
    };
    note(record, &progress);
    let error = match copied {
        Ok(()) => return,
        Err(Broken::Idle) => Error::StreamIdle,
        Err(Broken::Client(error)) => {
            tracing::debug!(%error, "client broke off");
            Error::DownstreamClosed
        }
        Err(Broken::Upstream(error)) => {
            tracing::debug!(%error, "upstream broke off");
            Error::ClosedInResponse
        }
    };
    blame(record, &error);
    // What broke on one side must not look like a clean end on the other.
    reset(stream.socket());
    reset(connected.io.socket());
}

fn idle_timeout(target: &Target) -> Duration {
    let configured = match target {
        Target::Clusters(target) => target.idle_timeout,
        Target::Application(chain) => chain.idle_timeout,
        Target::Nowhere(_) => None,
    };
    configured.unwrap_or(IDLE)
}

/// A record of the connection that says who the client is.
fn record(worker: &Rc<Worker>, conn: &Connection) -> TcpRecord {
    let mut record = worker.recorder.tcp(conn.direction);
    if conn.direction == Direction::Inbound {
        record.source = Some(worker.metrics.peers.intern(conn.identity(), None));
        record.mutual_tls = conn.identity().is_some();
    }
    record.server_name = conn.server_name().map(Arc::from);
    record
}

fn describe(record: &mut TcpRecord, picked: &Picked, cluster: &Cluster, mutual_tls: bool) {
    record.upstream = Some(picked.endpoint.address);
    record.cluster = Some(Arc::from(cluster.name()));
    // Inbound, the client's leg is what counts, and the destination is the service of the port.
    if record.direction != Direction::Inbound {
        record.mutual_tls = mutual_tls;
        record.destination = Some(picked.endpoint.destination(cluster));
    }
    record.opened();
}

fn note(record: &mut TcpRecord, progress: &Progress) {
    record.bytes_in = progress.up.get();
    record.bytes_out = progress.down.get();
}

fn blame(record: &mut TcpRecord, error: &Error) {
    if error.flag() != Flag::None {
        record.flag(error.flag().as_str());
    }
    record.reason = Some(error.reason());
}

/// Records a connection that never came to its itinerary, and resets it.
pub fn refuse(worker: &Rc<Worker>, conn: &Connection, socket: &TcpStream, error: &Error) {
    note_refused(worker, conn, error);
    reset(socket);
}

/// Records a connection that never came to its itinerary and is closed already.
pub fn note_refused(worker: &Rc<Worker>, conn: &Connection, error: &Error) {
    blame(&mut record(worker, conn), error);
}

/// Makes the socket's close a reset instead of an orderly end.
fn reset(socket: &TcpStream) {
    // A socket that is gone already needs no reset.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
