//! Streams that clients give up, as an upstream sees them frame by frame.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::spawn_local;

use super::support::{Hop, Origin, get, local};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;

/// What has come on the first connection.
#[derive(Default)]
struct Log {
    heads: Cell<u32>,
    resets: Cell<u32>,
    ended: Cell<bool>,
    changed: Notify,
    first: Notify,
    /// Answers the second request.
    answer: Notify,
}

impl Log {
    fn count(&self, counter: &Cell<u32>) {
        counter.set(counter.get() + 1);
        self.changed.notify_one();
    }

    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            self.changed.notified().await;
        }
    }
}

/// A server that takes 1,000 streams, answers the first request at once, the second when told, and no other.
async fn serve(io: TcpStream, log: Rc<Log>) {
    let (mut read, mut write) = io.into_split();
    let asked = log.clone();
    spawn_local(async move {
        let limit = [0, 0, 6, SETTINGS, 0, 0, 0, 0, 0, 0, 3, 0, 0, 3, 232];
        write.write_all(&limit).await.unwrap();
        asked.first.notified().await;
        write.write_all(&answer(1)).await.unwrap();
        asked.answer.notified().await;
        write.write_all(&answer(3)).await.unwrap();
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
fn answer(stream: u8) -> [u8; 10] {
    [0, 0, 1, HEADERS, 5, 0, 0, 0, stream, 0x88]
}

#[test]
fn who_leaves_with_many_streams_takes_nobody_along() {
    local(async {
        let log = Rc::<Log>::default();
        let shared = log.clone();
        let origin = Origin::raw(move |io| serve(io, shared.clone())).await;
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
        log.answer.notify_one();
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
