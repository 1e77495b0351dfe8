//! The API server spoken to over HTTP, for what is too much or too fast for a `kubectl` each. `kubectl proxy` brings the
//! credentials.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::Cluster;

/// Calls in flight: more than an API server of two cores has use for.
const CONCURRENCY: usize = 16;

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    path: String,
    content_type: &'static str,
    body: Bytes,
}

impl Call {
    /// Creates an object in the collection at `path`.
    pub fn create(path: &str, object: &Value) -> Self {
        Self::new(Method::POST, path, "application/json", object)
    }

    /// Changes fields of the object at `path`, or of its status.
    pub fn patch(path: &str, fields: &Value) -> Self {
        let merge = "application/merge-patch+json";
        Self::new(Method::PATCH, path, merge, fields)
    }

    /// What `kubectl apply --server-side` sends.
    pub fn apply(path: &str, object: &Value) -> Self {
        let path = format!("{path}?fieldManager=kubectl&force=true");
        Self::new(Method::PATCH, &path, "application/apply-patch+yaml", object)
    }

    fn new(method: Method, path: &str, content_type: &'static str, body: &Value) -> Self {
        Self {
            method,
            path: path.to_owned(),
            content_type,
            body: body.to_string().into(),
        }
    }
}

/// Connections to the API server with an administrator's rights.
#[derive(Debug)]
pub struct Api {
    proxy: Child,
    address: SocketAddr,
    runtime: Runtime,
}

impl Api {
    pub fn open(cluster: Cluster) -> Result<Self> {
        let mut command = cluster.command(&["proxy", "--port=0"]);
        let mut proxy = command.stdout(Stdio::piped()).spawn()?;
        let stdout = proxy.stdout.take().context("no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().rsplit(' ').next().unwrap_or_default();
        let address = address
            .parse()
            .with_context(|| format!("kubectl proxy says {line:?}"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            proxy,
            address,
            runtime,
        })
    }

    /// Makes one call and returns the object that it is answered with.
    pub fn call(&self, call: &Call) -> Result<Value> {
        self.runtime.block_on(async {
            let mut connection = connect(self.address).await?;
            send(&mut connection, call).await
        })
    }

    /// Makes many calls, several at a time, and returns their answers in the same order; fails when one is refused.
    pub fn all(&self, calls: Vec<Call>) -> Result<Vec<Value>> {
        let calls = Arc::new(calls);
        let next = Arc::new(AtomicUsize::new(0));
        self.runtime.block_on(async {
            let workers = (0..CONCURRENCY).map(|_| {
                let (calls, next, address) = (calls.clone(), next.clone(), self.address);
                tokio::spawn(async move {
                    let mut connection = connect(address).await?;
                    let mut answers = Vec::new();
                    loop {
                        let place = next.fetch_add(1, Ordering::Relaxed);
                        let Some(call) = calls.get(place) else {
                            return anyhow::Ok(answers);
                        };
                        answers.push((place, send(&mut connection, call).await?));
                    }
                })
            });
            let mut answers = Vec::new();
            for worker in workers.collect::<Vec<_>>() {
                answers.extend(worker.await??);
            }
            answers.sort_by_key(|(place, _)| *place);
            Ok(answers.into_iter().map(|(_, answer)| answer).collect())
        })
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        drop(self.proxy.kill());
        drop(self.proxy.wait());
    }
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

async fn send(connection: &mut SendRequest<Full<Bytes>>, call: &Call) -> Result<Value> {
    let request = Request::builder()
        .method(call.method.clone())
        .uri(&call.path)
        .header("host", "localhost")
        .header("content-type", call.content_type)
        .body(Full::new(call.body.clone()))?;
    let response = connection.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        let reason = String::from_utf8_lossy(&body);
        bail!("{} {}: {status}: {reason}", call.method, call.path);
    }
    Ok(serde_json::from_slice(&body)?)
}
