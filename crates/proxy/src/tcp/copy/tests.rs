//! Copying between two pipes of 64 bytes, in virtual time.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::{JoinHandle, LocalSet};

use super::*;

const IDLE: Duration = Duration::from_secs(3600);
const PIPE: usize = 64;

/// What copying came to, and the bytes that went up and down.
type Copied = JoinHandle<(Result<(), Broken>, u64, u64)>;

/// Copies between `client` and `upstream`; `first` was heard from the upstream already.
fn copy<U>(mut client: DuplexStream, mut upstream: U, first: &'static [u8]) -> Copied
where
    U: AsyncRead + AsyncWrite + Unpin + 'static,
{
    tokio::task::spawn_local(async move {
        let progress = Progress::default();
        let first = Bytes::from_static(first);
        let copied = copy_both(&mut client, &mut upstream, first, IDLE, &progress).await;
        (copied, progress.up.get(), progress.down.get())
    })
}

/// The client's end, the server's end and the copying between them.
fn connected(first: &'static [u8]) -> (DuplexStream, DuplexStream, Copied) {
    let (client, client_side) = duplex(PIPE);
    let (server, server_side) = duplex(PIPE);
    (client, server, copy(client_side, server_side, first))
}

async fn local(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn half_close_is_kept_in_both_directions() {
    local(async {
        let (mut client, mut server, copying) = connected(b"");
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = Vec::new();
        server.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"question");
        // The client has ended its half long ago; the answer still arrives.
        server.write_all(b"a long answer").await.unwrap();
        server.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"a long answer");
        assert!(matches!(copying.await.unwrap(), (Ok(()), 8, 13)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_the_upstream_said_first_arrives_first() {
    local(async {
        let (mut client, mut server, _copying) = connected(b"220 ");
        server.write_all(b"ready").await.unwrap();
        let mut banner = [0; 9];
        client.read_exact(&mut banner).await.unwrap();
        assert_eq!(&banner, b"220 ready");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_slows_its_writer() {
    local(async {
        let (mut client, mut server, _copying) = connected(b"");
        let sending = client.write_all(&[7; 10_000]);
        let sent = tokio::time::timeout(Duration::from_secs(1), sending).await;
        // Two pipes and at most one chunk of what one pipe holds: far less than 10,000.
        assert!(sent.is_err());
        let mut all = [0; 2 * PIPE];
        server.read_exact(&mut all).await.unwrap();
        assert_eq!(all, [7; 2 * PIPE]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn ends_when_nothing_moves() {
    local(async {
        let begun = Instant::now();
        let (mut client, _server, copying) = connected(b"");
        tokio::time::sleep(IDLE / 2).await;
        client.write_all(b"still here").await.unwrap();
        assert!(matches!(copying.await.unwrap().0, Err(Broken::Idle)));
        assert_eq!(begun.elapsed(), IDLE + IDLE / 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn says_whose_fault_it_was() {
    local(async {
        let (mut client, server, copying) = connected(b"");
        drop(server);
        client.write_all(b"x").await.unwrap();
        assert!(matches!(copying.await.unwrap().0, Err(Broken::Upstream(_))));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_has_to_wait_is_finished() {
    local(async {
        let (mut client, client_side) = duplex(PIPE);
        // Takes 64 bytes at once like a TLS writer, and gets rid of 16 at a time.
        let (mut server, server_side) = duplex(PIPE / 4);
        let server_side = tokio::io::BufWriter::with_capacity(PIPE, server_side);
        let _copying = copy(client_side, server_side, b"");
        client.write_all(&[7; 40]).await.unwrap();
        let mut heard = [0; 40];
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, [7; 40]);
    })
    .await;
}
