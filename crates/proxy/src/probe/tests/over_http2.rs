//! grpc probes, and https ones, whose servers speak HTTP/2.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tasuki_identity::ca::CertificateAuthority;
use tasuki_identity::{ClientAuth, SpiffeId, TrustDomain, server_config};
use tokio::io::{AsyncRead, AsyncWrite};

use super::*;

type Answer = StreamBody<tokio_stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

async fn serve<IO>(io: IO)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: Request<Incoming>| async move {
        Ok::<_, Infallible>(if request.uri().path() == "/grpc.health.v1.Health/Check" {
            health(request.into_body().collect().await.unwrap().to_bytes())
        } else {
            Response::new(StreamBody::new(tokio_stream::iter(Vec::new())))
        })
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(io), service).await;
}

/// `up` serves, `down` does not, others are unknown.
fn health(request: Bytes) -> Response<Answer> {
    let status = match request.get(7..) {
        None => Some(1),
        Some(b"up") => Some(1),
        Some(b"down") => Some(2),
        Some(_) => None,
    };
    let mut frames = Vec::new();
    let mut trailers = HeaderMap::new();
    let code = match status {
        Some(status) => {
            let mut message = BytesMut::new();
            message.put_slice(&[0, 0, 0, 0, 2, 8, status]);
            frames.push(Ok(Frame::data(message.freeze())));
            "0"
        }
        None => "5",
    };
    trailers.insert("grpc-status", code.parse().unwrap());
    frames.push(Ok(Frame::trailers(trailers)));
    Response::new(StreamBody::new(tokio_stream::iter(frames)))
}

#[tokio::test]
async fn a_grpc_probe_asks_for_health() {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    let (not_grpc, _heard) = application("HTTP/1.1 200 OK\r\n\r\n").await;
    for (port, service, expected) in [
        (port, "", Outcome::Success),
        (port, "up", Outcome::Success),
        (port, "down", Outcome::NotServing),
        (port, "nobody", Outcome::NotServing),
        (not_grpc, "", Outcome::Failed(Failure::Broken)),
        (
            unused_port().await,
            "",
            Outcome::Failed(Failure::NoConnection),
        ),
    ] {
        let json =
            format!(r#"{{"app/readiness":{{"grpc":{{"port":{port},"service":"{service}"}}}}}}"#);
        let outcome = prober(&json).ask("app", Kind::Readiness).await;
        assert_eq!(outcome, Some(expected), "{service:?}");
    }
}

#[tokio::test]
async fn an_https_probe_takes_any_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let domain = TrustDomain::new("cluster.local").unwrap();
    let mut ca = CertificateAuthority::open(folder.path(), &domain, SystemTime::now()).unwrap();
    let id = SpiffeId::new(&domain, "shop", "cart").unwrap();
    let lifetime = Duration::from_secs(3600);
    let certificate = ca
        .workload_certificate(&id, lifetime, SystemTime::now())
        .unwrap();
    let roots = ca.roots().clone();
    for alpn in [&[&b"h2"[..]][..], &[]] {
        let config = server_config(&certificate, &roots, alpn, ClientAuth::None).unwrap();
        let http2 = !alpn.is_empty();
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            if http2 {
                serve(stream).await;
            } else {
                let mut bytes = [0; 1024];
                let _ = stream.read(&mut bytes).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                let _ = stream.shutdown().await;
            }
        });
        let json =
            format!(r#"{{"app/readiness":{{"httpGet":{{"port":{port},"scheme":"HTTPS"}}}}}}"#);
        let outcome = prober(&json).ask("app", Kind::Readiness).await;
        assert_eq!(outcome, Some(Outcome::Success), "http2: {http2}");
    }
    let (plain, _heard) = application("HTTP/1.1 200 OK\r\n\r\n").await;
    let json = format!(r#"{{"app/readiness":{{"httpGet":{{"port":{plain},"scheme":"HTTPS"}}}}}}"#);
    let outcome = prober(&json).ask("app", Kind::Readiness).await;
    assert_eq!(outcome, Some(Outcome::Failed(Failure::Tls)));
}
