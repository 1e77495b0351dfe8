//! An upstream's connection, frame by frame: streams that are given up, limits that change, an upstream that goes away.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::select;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};

use super::support::{Answered, Hop, Origin, get, local};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// Room for many streams (SETTINGS_MAX_CONCURRENT_STREAMS 1,000), and for one.
const MANY: [u8; 15] = [0, 0, 6, SETTINGS, 0, 0, 0, 0, 0, 0, 3, 0, 0, 3, 232];
const ONE: [u8; 15] = [0, 0, 6, SETTINGS, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1];
/// Streams above 3 are not taken, no error.
const LEAVE: [u8; 17] = [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0];
/// The second request's answer.
const ANSWER: [u8; 10] = answer(3);

/// What has come, and what to send.
#[derive(Default)]
struct Log {
    heads: Cell<u32>,
    resets: Cell<u32>,
    ended: Cell<bool>,
    changed: Notify,
    first: Notify,
    /// Sent after the first answer, once.
    next: Cell<&'static [u8]>,
    go: Notify,
}

impl Log {
    fn count(&self, counter: &Cell<u32>) {
        counter.set(counter.get() + 1);
        self.changed.notify_one();
    }

    fn send(&self, bytes: &'static [u8]) {
        self.next.set(bytes);
        self.go.notify_one();
    }

    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            self.changed.notified().await;
        }
    }
}

/// A server that answers the first request at once, and no other unless told.
async fn serve(io: TcpStream, limit: &'static [u8], log: Rc<Log>) {
    let (mut read, mut write) = io.into_split();
    let asked = log.clone();
    spawn_local(async move {
        write.write_all(limit).await.unwrap();
        asked.first.notified().await;
        write.write_all(&answer(1)).await.unwrap();
        asked.go.notified().await;
        write.write_all(asked.next.get()).await.unwrap();
        // Open until the other half has ended.
        asked.go.notified().await;
    });
    read.read_exact(&mut [0; 24]).await.unwrap();
    let mut head = [0; 9];
    while read.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        if read
            .read_exact(&mut vec![0; length as usize])
            .await
            .is_err()
        {
            break;
        }
        match head[3] {
            HEADERS => log.count(&log.heads),
            RST_STREAM => log.count(&log.resets),
            _ => {}
        }
        if log.heads.get() > 0 {
            log.first.notify_one();
        }
    }
    log.ended.set(true);
    log.changed.notify_one();
}

/// `:status: 200` and the end of the stream.
const fn answer(stream: u8) -> [u8; 10] {
    [0, 0, 1, HEADERS, 5, 0, 0, 0, stream, 0x88]
}

#[test]
fn who_leaves_with_many_streams_takes_nobody_along() {
    local(async {
        let log = Rc::<Log>::default();
        let shared = log.clone();
        let origin = Origin::raw(move |io| serve(io, &MANY, shared.clone())).await;
        let hop = Hop::to(&origin).start().await;
        let mut visitor = hop.h2().await;
        // With its answer the origin's limit is known.
        visitor.send(get("/")).await.unwrap();
        let (answered, _sink) = visitor.start(get("/").map(drop), true).await;
        let mut leaver = hop.h2().await;
        let mut streams = Vec::new();
        for _ in 0..150 {
            streams.push(leaver.start(get("/").map(drop), true).await);
        }
        log.until(|log| log.heads.get() == 152).await;
        let started = Instant::now();
        drop((streams, leaver));
        log.until(|log| log.resets.get() == 10).await;
        log.send(&ANSWER);
        assert_eq!(answered.await.unwrap().status(), StatusCode::OK);
        // Nobody uses it any more: its end cancels the rest.
        log.until(|log| log.ended.get()).await;
        let later = started.elapsed().as_millis() / Duration::from_millis(250).as_millis();
        let resets = u128::from(log.resets.get());
        assert!(resets <= 10 + later, "{resets} resets");
        let again = visitor.send(get("/")).await.unwrap();
        assert_eq!((again.status, origin.connections()), (StatusCode::OK, 2));
    });
}

/// A client with one request that is not answered and one that waits for its place, beside an origin that takes one at a time.
async fn one_waits() -> (Rc<Log>, Origin, JoinHandle<Answered>) {
    let log = Rc::<Log>::default();
    let shared = log.clone();
    let origin = Origin::raw(move |io| serve(io, &ONE, shared.clone())).await;
    let hop = Hop::to(&origin)
        .cluster(|cluster| {
            cluster.limits.max_connections = 1;
            cluster.limits.max_pending_requests = 1;
        })
        .start()
        .await;
    let mut client = hop.h2().await;
    client.send(get("/")).await.unwrap();
    let mut first = client.clone();
    spawn_local(async move { first.send(get("/")).await });
    log.until(|log| log.heads.get() == 2).await;
    let ask = || {
        let mut client = client.clone();
        spawn_local(async move { client.send(get("/")).await.unwrap() })
    };
    // The queue has one place: who is refused shows that the other is in it.
    let (refused, waits) = select(ask(), ask()).await.factor_first();
    assert_eq!(refused.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
    (log, origin, waits.into_inner())
}

#[test]
fn who_waits_gets_a_place_when_the_upstream_takes_more() {
    local(async {
        let (log, origin, _waits) = one_waits().await;
        log.send(&MANY);
        log.until(|log| log.heads.get() == 3).await;
        assert_eq!(origin.connections(), 1);
    });
}

#[test]
fn who_waits_gets_another_connection_when_the_upstream_goes_away() {
    local(async {
        let (log, origin, waits) = one_waits().await;
        log.send(&LEAVE);
        assert_eq!(waits.await.unwrap().status, StatusCode::OK);
        assert_eq!(origin.connections(), 2);
    });
}
