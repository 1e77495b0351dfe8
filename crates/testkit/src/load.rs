//! A load client: HTTP/1.1, HTTP/2, gRPC calls or gRPC streams at a given concurrency and rate, bounded by a number of
//! requests or a time, that remembers every outcome.

mod connection;
mod report;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use tokio::sync::mpsc;

use connection::{Body, Connection};
pub use report::{Report, Sample};

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    Http1,
    Http2,
    /// One message in each direction.
    Grpc,
    /// [`Plan::messages`] messages, each of which comes back.
    GrpcStream,
}

impl Protocol {
    fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc | Self::GrpcStream)
    }
}

/// What to send.
#[derive(Clone, Debug)]
pub struct Plan {
    pub target: SocketAddr,
    /// Host or `:authority`.
    pub authority: String,
    pub protocol: Protocol,
    pub method: Method,
    pub path: String,
    pub headers: Vec<(String, String)>,
    /// Of a gRPC call: each message.
    pub body: Bytes,
    /// Messages of a gRPC stream, and the time between them.
    pub messages: (u32, Duration),
    /// Requests in flight. Each has a connection of its own, unless `connections` says fewer (HTTP/2 only).
    pub concurrency: usize,
    /// HTTP/2 connections; 0: as many as `concurrency`.
    pub connections: usize,
    /// Stop after so many.
    pub requests: Option<u64>,
    /// Stop after so long.
    pub duration: Option<Duration>,
    /// Requests a second over all; as fast as answers come when absent.
    pub rate: Option<f64>,
    /// An answer later than this counts as the error `timeout`.
    pub timeout: Duration,
    /// Marks each request with a unique `x-once`.
    pub once: bool,
}

impl Plan {
    /// GET `/`, one at a time, no end: set `requests` or `duration`, or use [`Stop`].
    pub fn new(target: SocketAddr, authority: &str) -> Self {
        Self {
            target,
            authority: authority.to_owned(),
            protocol: Protocol::Http1,
            method: Method::GET,
            path: "/".to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
            messages: (10, Duration::from_millis(50)),
            concurrency: 1,
            connections: 0,
            requests: None,
            duration: None,
            rate: None,
            timeout: Duration::from_secs(15),
            once: false,
        }
    }

    /// Adds a request header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Ends a running load from another thread; what is in flight is still answered.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs a plan to its end.
pub async fn run(plan: Plan) -> Report {
    run_until(plan, Stop::default(), None).await
}

/// Runs a plan to its end or until stopped; with `live`, samples go there instead of into the report.
pub async fn run_until(
    plan: Plan,
    stop: Stop,
    live: Option<mpsc::UnboundedSender<Sample>>,
) -> Report {
    let shared = Arc::new(Shared {
        started: Instant::now(),
        next: AtomicU64::new(0),
        stop,
        live,
        plan,
    });
    let plan = &shared.plan;
    let connections = if plan.connections == 0 || plan.protocol == Protocol::Http1 {
        plan.concurrency
    } else {
        plan.connections
    };
    let pool: Vec<_> = (0..connections)
        .map(|_| Arc::new(tokio::sync::Mutex::new(None)))
        .collect();
    let workers: Vec<_> = (0..plan.concurrency)
        .map(|index| {
            tokio::spawn(worker(
                Arc::clone(&shared),
                Arc::clone(&pool[index % connections]),
            ))
        })
        .collect();
    let mut samples = Vec::new();
    for worker in workers {
        samples.extend(worker.await.unwrap_or_default());
    }
    Report::new(samples, shared.started.elapsed())
}

struct Shared {
    plan: Plan,
    started: Instant,
    next: AtomicU64,
    stop: Stop,
    live: Option<mpsc::UnboundedSender<Sample>>,
}

impl Shared {
    /// The number of the next request, once it is due; `None` when the plan is done.
    async fn next(&self) -> Option<u64> {
        if self.stop.stopped()
            || self
                .plan
                .duration
                .is_some_and(|limit| self.started.elapsed() >= limit)
        {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if self.plan.requests.is_some_and(|limit| number >= limit) {
            return None;
        }
        if let Some(rate) = self.plan.rate {
            let due = self.started + Duration::from_secs_f64(number as f64 / rate);
            tokio::time::sleep_until(due.into()).await;
        }
        Some(number)
    }
}

type Slot = Arc<tokio::sync::Mutex<Option<Connection>>>;

async fn worker(shared: Arc<Shared>, slot: Slot) -> Vec<Sample> {
    let mut samples = Vec::new();
    let run = format!("{:x}", rand::random::<u64>());
    while let Some(number) = shared.next().await {
        let started = Instant::now();
        let once = shared.plan.once.then(|| format!("{run}-{number}"));
        let exchange = tokio::time::timeout(shared.plan.timeout, one(&shared.plan, &slot, once));
        let (outcome, backend) = match exchange.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => (format!("error: {error}"), String::new()),
            Err(_) => ("error: timeout".to_owned(), String::new()),
        };
        if outcome.starts_with("error") {
            *slot.lock().await = None;
            // A refused connection must not become a busy loop.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let sample = Sample {
            sent: started - shared.started,
            latency: started.elapsed(),
            outcome,
            backend,
        };
        match &shared.live {
            // Whoever listens keeps what it needs: a run without an end must not grow.
            Some(live) => drop(live.send(sample)),
            None => samples.push(sample),
        }
    }
    samples
}

/// One request on the slot's connection, opened if need be: outcome and backend.
async fn one(plan: &Plan, slot: &Slot, once: Option<String>) -> anyhow::Result<(String, String)> {
    let sending = {
        let mut connection = slot.lock().await;
        if !connection.as_ref().is_some_and(Connection::usable) {
            *connection = Some(Connection::open(plan.target, plan.protocol).await?);
        }
        let connection = connection
            .as_mut()
            .ok_or_else(|| anyhow::anyhow!("no connection"))?;
        connection.ready().await?;
        connection.send(plan.request(once)?)
    };
    let answer = connection::finish(sending, plan.protocol).await?;
    let expected = plan.messages.0 as usize * connection::grpc_message(&plan.body).len();
    if plan.protocol == Protocol::GrpcStream
        && answer.outcome == "grpc:0"
        && answer.length != expected
    {
        anyhow::bail!("{} bytes of {expected} came back", answer.length);
    }
    Ok((answer.outcome, answer.backend))
}

impl Plan {
    fn request(&self, once: Option<String>) -> anyhow::Result<http::Request<Body>> {
        let mut request = http::Request::builder();
        request = match self.protocol {
            Protocol::Http1 => request
                .method(self.method.clone())
                .uri(&self.path)
                .header("host", &self.authority),
            Protocol::Http2 => request
                .method(self.method.clone())
                .uri(format!("http://{}{}", self.authority, self.path))
                .version(http::Version::HTTP_2),
            Protocol::Grpc | Protocol::GrpcStream => {
                let path = if self.path == "/" {
                    "/echo.Echo/Unary"
                } else {
                    &self.path
                };
                let request = request
                    .method(Method::POST)
                    .uri(format!("http://{}{path}", self.authority));
                request
                    .version(http::Version::HTTP_2)
                    .header("content-type", "application/grpc")
                    .header("te", "trailers")
            }
        };
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(key) = once {
            request = request.header("x-once", key);
        }
        let message = || connection::grpc_message(&self.body);
        let body = match self.protocol {
            Protocol::Http1 | Protocol::Http2 => connection::whole(self.body.clone()),
            Protocol::Grpc => connection::whole(message()),
            Protocol::GrpcStream => connection::paced(message(), self.messages),
        };
        Ok(request.body(body)?)
    }
}
