use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::task::LocalSet;

use super::*;

const IDLE: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn half_close_is_kept_in_both_directions() {
    LocalSet::new()
        .run_until(async {
            let (mut client, mut client_side) = duplex(64);
            let (mut server, mut server_side) = duplex(64);
            let copying = tokio::task::spawn_local(async move {
                let progress = Progress::default();
                copy_both(
                    &mut client_side,
                    &mut server_side,
                    Bytes::new(),
                    IDLE,
                    &progress,
                )
                .await
                .unwrap();
                (progress.up.get(), progress.down.get())
            });
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
            assert_eq!(copying.await.unwrap(), (8, 13));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_the_upstream_said_first_arrives_first() {
    LocalSet::new()
        .run_until(async {
            let (mut client, mut client_side) = duplex(64);
            let (mut server, mut server_side) = duplex(64);
            tokio::task::spawn_local(async move {
                copy_both(
                    &mut client_side,
                    &mut server_side,
                    Bytes::from_static(b"220 "),
                    IDLE,
                    &Progress::default(),
                )
                .await
            });
            server.write_all(b"ready").await.unwrap();
            let mut banner = [0; 9];
            client.read_exact(&mut banner).await.unwrap();
            assert_eq!(&banner, b"220 ready");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_slows_its_writer() {
    LocalSet::new()
        .run_until(async {
            let (mut client, mut client_side) = duplex(64);
            let (mut server, mut server_side) = duplex(64);
            tokio::task::spawn_local(async move {
                copy_both(
                    &mut client_side,
                    &mut server_side,
                    Bytes::new(),
                    IDLE,
                    &Progress::default(),
                )
                .await
            });
            let sent =
                tokio::time::timeout(Duration::from_secs(1), client.write_all(&[7; 10_000])).await;
            // Two pipes of 64 bytes and at most one chunk of what one pipe holds: far less than 10,000.
            assert!(sent.is_err());
            let mut all = vec![0; 128];
            server.read_exact(&mut all).await.unwrap();
            assert_eq!(all, vec![7; 128]);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn ends_when_nothing_moves() {
    LocalSet::new()
        .run_until(async {
            let (mut client, mut client_side) = duplex(64);
            let (_server, mut server_side) = duplex(64);
            let begun = Instant::now();
            let copying = tokio::task::spawn_local(async move {
                copy_both(
                    &mut client_side,
                    &mut server_side,
                    Bytes::new(),
                    IDLE,
                    &Progress::default(),
                )
                .await
            });
            tokio::time::sleep(IDLE / 2).await;
            client.write_all(b"still here").await.unwrap();
            assert!(matches!(copying.await.unwrap(), Err(Broken::Idle)));
            assert_eq!(begun.elapsed(), IDLE + IDLE / 2);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn says_whose_fault_it_was() {
    LocalSet::new()
        .run_until(async {
            let (mut client, mut client_side) = duplex(64);
            let (server, mut server_side) = duplex(64);
            let copying = tokio::task::spawn_local(async move {
                copy_both(
                    &mut client_side,
                    &mut server_side,
                    Bytes::new(),
                    IDLE,
                    &Progress::default(),
                )
                .await
            });
            drop(server);
            client.write_all(b"x").await.unwrap();
            assert!(matches!(copying.await.unwrap(), Err(Broken::Upstream(_))));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_has_to_wait_is_finished() {
    LocalSet::new()
        .run_until(async {
            let (mut client, mut client_side) = duplex(64);
            // Takes 64 bytes at once like a TLS writer, and gets rid of 16 at a time.
            let (mut server, server_side) = duplex(16);
            let mut server_side = tokio::io::BufWriter::with_capacity(64, server_side);
            tokio::task::spawn_local(async move {
                copy_both(
                    &mut client_side,
                    &mut server_side,
                    Bytes::new(),
                    IDLE,
                    &Progress::default(),
                )
                .await
            });
            client.write_all(&[7; 40]).await.unwrap();
            let mut heard = [0; 40];
            server.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, [7; 40]);
        })
        .await;
}
