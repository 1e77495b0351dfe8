//! Streams that nobody reads, through two sidecars: what is behind them waits without loss, memory stays
//! bounded, and the streams beside them on the same connections are served.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::Request;
use tasuki_e2e::client;
use tasuki_testkit::mesh::{Mesh, PodSpec, RunningPod, Sidecar, service};
use tasuki_testkit::message::{self, FRAME_BUDGET, Messages};
use tasuki_testkit::origin::{Kind, Origin};
use tasuki_testkit::require::{Need, have};
use tasuki_testkit::wait;

const VIP: &str = "10.96.0.70:9000";
const AUTHORITY: &str = "messages.default.svc.cluster.local:9000";

/// Streams that are read, and messages of each.
const BUSY: u64 = 100;
const ROUNDS: u64 = 20;
/// Messages of a stream that is not read: twice what all windows on the way hold.
const STALLED: u64 = 20_000;
/// When so many have left, the windows on the way are full or nearly so.
const UNDER_WAY: u64 = 6_000;
/// Streams that nobody reads, at once.
const MANY: u64 = 100;
/// What may be on the way of streams that nobody reads, with room for everything else.
const MEMORY: u64 = 32 << 20;
/// Nothing here takes so long unless it is stuck.
const STUCK: Duration = Duration::from_secs(300);

struct Scene {
    client: RunningPod,
    sidecars: [Sidecar; 2],
    application: Origin,
    _server: RunningPod,
    _mesh: Mesh,
}

impl Scene {
    fn new(name: &str) -> Self {
        let mesh = Mesh::start(name).unwrap();
        let ports = [("grpc", 9000, 9000)];
        let messages = service("default", "messages", "10.96.0.70", &ports);
        mesh.apply("messages", &messages).unwrap();
        let server = mesh
            .pod(PodSpec::new("messages").port("grpc", 9000))
            .unwrap();
        let application = server.origin(9000, Kind::Messages).unwrap();
        let callee = server.sidecar().unwrap();
        let (client, caller) = client(&mesh, "client", "default").unwrap();
        let scene = Self {
            client,
            sidecars: [caller, callee],
            application,
            _server: server,
            _mesh: mesh,
        };
        wait::until("the service answers", Duration::from_secs(15), || {
            scene.run(|sender| async move { echo(sender, 1).await })
        })
        .unwrap();
        scene
    }

    /// Runs a client with one connection.
    fn run<F>(&self, work: impl FnOnce(SendRequest<Bytes>) -> F + Send) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let client = || async {
            let work = async { work(open().await?).await };
            tokio::time::timeout(STUCK, work).await.context("stuck")?
        };
        self.client.namespace.block_on(client)?
    }

    fn resident(&self) -> [u64; 2] {
        [0, 1].map(|side| self.sidecars[side].process.resident().unwrap())
    }

    /// Fails if a proxy has grown by more than a stalled stream may hold.
    fn assert_grown_little(&self, before: [u64; 2]) {
        for (side, (before, after)) in before.into_iter().zip(self.resident()).enumerate() {
            let grown = after.saturating_sub(before);
            assert!(grown < MEMORY, "proxy {side} grew by {grown} bytes");
        }
    }
}

/// The application's connection to its sidecar.
async fn open() -> Result<SendRequest<Bytes>> {
    let target: SocketAddr = VIP.parse()?;
    let stream = tokio::net::TcpStream::connect(target).await?;
    let mut builder = h2::client::Builder::new();
    builder
        .initial_connection_window_size(64 << 20)
        .data_frame_budget(FRAME_BUDGET);
    let (sender, connection) = builder.handshake(stream).await?;
    // How it ends, its streams say.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// Opens a stream and waits for the response's head.
async fn stream(sender: SendRequest<Bytes>, path: &str) -> Result<(SendStream<Bytes>, RecvStream)> {
    let request = Request::post(format!("http://{AUTHORITY}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let mut sender = sender.ready().await?;
    let (response, sink) = sender.send_request(request.body(())?, false)?;
    let response = response.await?;
    ensure!(response.status() == 200, "{response:?}");
    Ok((sink, response.into_body()))
}

/// Messages to and fro, one after the other.
async fn echo(sender: SendRequest<Bytes>, rounds: u64) -> Result<()> {
    let (mut sink, source) = stream(sender, "/echo").await?;
    let mut messages = Messages::new(source);
    for number in 0..rounds {
        message::send(&mut sink, number).await?;
        ensure!(messages.next().await?, "it ended after {number} messages");
    }
    message::end(&mut sink)?;
    ensure!(!messages.next().await?, "more than was sent");
    Ok(())
}

/// All the busy streams at once.
async fn busy(sender: &SendRequest<Bytes>) -> Result<()> {
    let streams: Vec<_> = (0..BUSY)
        .map(|_| tokio::spawn(echo(sender.clone(), ROUNDS)))
        .collect();
    for stream in streams {
        stream.await??;
    }
    Ok(())
}

/// Waits until a count that others raise is reached.
async fn reached(count: &AtomicU64, goal: u64) {
    while count.load(Ordering::Relaxed) < goal {
        // Tasks of this thread and threads beside it raise it; there is nothing to be woken by.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_stream_that_the_server_does_not_read_harms_no_other() {
    if !have("backpressure: up", &[Need::Namespaces]) {
        return;
    }
    let scene = &Scene::new("stalledup");
    let before = scene.resident();
    let controls = &scene.application.controls;
    scene
        .run(|sender| async move {
            let (mut sink, source) = stream(sender.clone(), "/hold").await?;
            let sent = Arc::new(AtomicU64::new(0));
            let counter = Arc::clone(&sent);
            let writer = tokio::spawn(async move {
                for number in 0..STALLED {
                    message::send(&mut sink, number).await?;
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                message::end(&mut sink)
            });
            reached(&sent, UNDER_WAY).await;
            busy(&sender).await?;
            let waiting = STALLED - sent.load(Ordering::Relaxed);
            ensure!(waiting > 0, "it was read, or stored without bound");
            scene.assert_grown_little(before);
            controls.release();
            writer.await??;
            let answer = source_bytes(source).await?;
            ensure!(answer == message::message(STALLED), "{answer:?}");
            Ok(())
        })
        .unwrap();
}

async fn source_bytes(mut source: RecvStream) -> Result<Bytes> {
    source
        .data()
        .await
        .context("no answer")?
        .map_err(Into::into)
}

#[test]
fn a_stream_that_the_client_does_not_read_harms_no_other() {
    if !have("backpressure: down", &[Need::Namespaces]) {
        return;
    }
    let scene = &Scene::new("stalleddown");
    let before = scene.resident();
    let sent = &scene.application.controls.messages;
    scene
        .run(|sender| async move {
            let (_sink, source) = stream(sender.clone(), &format!("/send/{STALLED}")).await?;
            reached(sent, UNDER_WAY).await;
            busy(&sender).await?;
            let waiting = STALLED - sent.load(Ordering::Relaxed);
            ensure!(waiting > 0, "it was stored without bound");
            scene.assert_grown_little(before);
            let count = Messages::new(source).count().await?;
            ensure!(count == STALLED, "{count} of {STALLED}");
            Ok(())
        })
        .unwrap();
}

#[test]
fn many_streams_that_are_not_read_harm_no_other() {
    if !have("backpressure: many", &[Need::Namespaces]) {
        return;
    }
    let scene = &Scene::new("stalledmany");
    let before = scene.resident();
    let sent = &scene.application.controls.messages;
    scene
        .run(|sender| async move {
            let mut stalled = Vec::new();
            for _ in 0..MANY {
                stalled.push(stream(sender.clone(), &format!("/bulk/{STALLED}")).await?);
            }
            reached(sent, MANY * UNDER_WAY).await;
            busy(&sender).await?;
            scene.assert_grown_little(before);
            // What has waited is whole; the others are given up.
            for (_sink, source) in stalled.into_iter().step_by(10) {
                let count = Messages::new(source).count().await?;
                ensure!(count == STALLED, "{count} of {STALLED}");
            }
            Ok(())
        })
        .unwrap();
}
