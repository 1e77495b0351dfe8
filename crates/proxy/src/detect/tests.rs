//! What is told apart, with which bytes read, and how long anybody waits for it.

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;

const BOTH: Expect = Expect {
    tls: true,
    http: true,
};

const PATIENCE: Duration = Duration::from_secs(60);
const CLIENT: Wait = Wait::ForClient(PATIENCE);

async fn pair() -> (TcpStream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    client.set_nodelay(true).unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    (client, Stream::tcp(accepted))
}

/// Sends `bytes` in pieces of one byte while detection reads, then the rest of the connection is as it was sent.
async fn piecewise(bytes: &[u8], expect: Expect) -> Detected {
    let (mut client, mut stream) = pair().await;
    let sending = async {
        for byte in bytes {
            client.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        client.shutdown().await.unwrap();
    };
    let (detected, ()) = tokio::join!(detect(&mut stream, expect, CLIENT), sending);
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, bytes, "bytes were lost");
    detected.unwrap()
}

#[tokio::test]
async fn split_into_single_bytes_nothing_is_lost() {
    let hello = client_hello::tests::hello(Some("cart.shop"), &["tasuki-h2", "h2"]);
    for (bytes, expected) in [
        (&b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"[..], Spoken::Http1),
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            Spoken::Http2,
        ),
        (b"get key\r\n", Spoken::Raw),
        (b"\0\x01binary", Spoken::Raw),
        (b"GET", Spoken::Raw),
    ] {
        assert_eq!(piecewise(bytes, BOTH).await, Detected::Spoken(expected));
    }
    let Detected::Spoken(Spoken::Tls(found)) = piecewise(&hello, BOTH).await else {
        panic!("not TLS")
    };
    assert_eq!(found.server_name.as_deref(), Some("cart.shop"));
    assert_eq!(found.alpn, [b"tasuki-h2".to_vec(), b"h2".to_vec()]);
}

#[tokio::test]
async fn only_what_is_looked_for_is_found() {
    let hello = client_hello::tests::hello(None, &[]);
    assert_eq!(
        piecewise(
            &hello,
            Expect {
                tls: false,
                http: true
            }
        )
        .await,
        Detected::Spoken(Spoken::Raw)
    );
    let request = b"GET / HTTP/1.1\r\n\r\n";
    assert_eq!(
        piecewise(
            request,
            Expect {
                tls: true,
                http: false
            }
        )
        .await,
        Detected::Spoken(Spoken::Raw)
    );
}

#[tokio::test]
async fn an_end_without_a_byte_is_an_end() {
    assert_eq!(piecewise(b"", BOTH).await, Detected::Ended);
}

#[tokio::test(start_paused = true)]
async fn silence_is_reported_and_reads_nothing() {
    let (mut client, mut stream) = pair().await;
    let begun = Instant::now();
    assert_eq!(
        detect(&mut stream, BOTH, Wait::Briefly).await.unwrap(),
        Detected::Silent
    );
    assert_eq!(begun.elapsed(), SILENCE);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(
        detect(&mut stream, BOTH, CLIENT).await.unwrap(),
        Detected::Spoken(Spoken::Http1)
    );
}

#[tokio::test]
async fn a_long_request_line_is_still_http() {
    let mut long = b"GET /".to_vec();
    long.resize(BUFFER + 100, b'a');
    assert_eq!(piecewise_fast(&long).await, Detected::Spoken(Spoken::Http1));
}

async fn piecewise_fast(bytes: &[u8]) -> Detected {
    let (mut client, mut stream) = pair().await;
    client.write_all(bytes).await.unwrap();
    detect(&mut stream, BOTH, CLIENT).await.unwrap()
}

#[tokio::test]
async fn whoever_speaks_first_decides() {
    let (mut client, mut stream) = pair().await;
    let (mut server, mut upstream) = pair().await;
    let mut said = BytesMut::new();
    server.write_all(b"220 ready\r\n").await.unwrap();
    assert_eq!(
        detect_or_hear(&mut stream, BOTH, &mut upstream, &mut said)
            .await
            .unwrap(),
        None
    );
    assert_eq!(&said[..], b"220 ready\r\n");
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let heard = detect_or_hear(&mut stream, BOTH, &mut upstream, &mut said)
        .await
        .unwrap();
    assert_eq!(heard, Some(Detected::Spoken(Spoken::Http1)));
}

#[tokio::test]
async fn a_client_that_hesitated_loses_nothing_when_the_server_speaks() {
    let (mut client, mut stream) = pair().await;
    let (mut server, mut upstream) = pair().await;
    let mut said = BytesMut::new();
    client.write_all(b"HE").await.unwrap();
    let hearing = detect_or_hear(&mut stream, BOTH, &mut upstream, &mut said);
    let speaking = async {
        // Long enough in scheduling terms for the client's bytes to have been read.
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
        server.write_all(b"220").await.unwrap();
    };
    let (heard, ()) = tokio::join!(hearing, speaking);
    assert_eq!(heard.unwrap(), None);
    client.write_all(b"LO").await.unwrap();
    client.shutdown().await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"HELO");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_must_speak_is_not_waited_for_for_ever() {
    let http = Expect {
        tls: false,
        http: true,
    };
    let (_silent, mut stream) = pair().await;
    let begun = Instant::now();
    let detected = detect(&mut stream, http, CLIENT).await.unwrap();
    assert_eq!((detected, begun.elapsed()), (Detected::Silent, PATIENCE));

    let (mut slow, mut stream) = pair().await;
    tokio::spawn(async move {
        tokio::time::sleep(PATIENCE / 2).await;
        for byte in b"GET /a-path-that-comes-byte-by-byte".iter().cycle() {
            if slow.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(HEAD_TIMEOUT / 20).await;
        }
    });
    let begun = Instant::now();
    let lost = detect(&mut stream, http, CLIENT).await.unwrap_err();
    assert_eq!(lost.kind(), io::ErrorKind::TimedOut);
    // Virtual time steps over a byte or two between its being sent and its being read.
    let expected = PATIENCE / 2 + HEAD_TIMEOUT;
    let took = begun.elapsed();
    assert!(
        (expected..expected + HEAD_TIMEOUT).contains(&took),
        "{took:?}"
    );
}
